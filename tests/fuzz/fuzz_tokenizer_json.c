/*
 * fuzz_tokenizer_json.c - a tokenizer.json: parsed; what is accepted encodes a text and decodes what came out.
 */
#include "data/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "Hello <image> w\xC3\xB6rld\xE2\x82\xAC 42\n\n\xF0\x9F\x98\x80 </s>\xFF";
    pc_tokenizer *t = NULL;
    pc_ids ids = {0};
    char *back = NULL;
    if (pc_tokenizer_parse(&t, (const char *)data, size)) return 0;
    if (!pc_tokenizer_encode(t, &ids, text, sizeof text - 1, true) &&
        !pc_tokenizer_decode(t, &back, ids.list, ids.count, false))
        free(back);
    pc_ids_close(&ids);
    free(pc_tokenizer_json(t));
    pc_tokenizer_close(t);
    return 0;
}
