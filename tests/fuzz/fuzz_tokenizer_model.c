/*
 * fuzz_tokenizer_model.c - a SentencePiece tokenizer.model: parsed; what is accepted encodes and decodes.
 */
#include "data/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "Hello w\xC3\xB6rld  42\n\xF0\x9F\x98\x80 </s>\xFF";
    pc_tokenizer *t = NULL;
    pc_ids ids = {0};
    char *back = NULL;
    if (pc_tokenizer_sentencepiece_parse(&t, data, size)) return 0;
    if (!pc_tokenizer_encode(t, &ids, text, sizeof text - 1, true) &&
        !pc_tokenizer_decode(t, &back, ids.list, ids.count, false))
        free(back);
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
    return 0;
}
