/*
 * fuzz_template.c - a chat template in Jinja: read, and rendered on a conversation with images and a system message.
 */
#include "data/text/jinja.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *variables;
    static const char conversation[] =
        "{\"messages\":[{\"role\":\"system\",\"content\":\"Be "
        "brief.\"},{\"role\":\"user\",\"content\":"
        "[{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"What is "
        "it?\"}]},{\"role\":\"assistant\","
        "\"content\":\"A \\u00fc.\\n\"},{\"role\":\"user\",\"content\":\"  And now? \"}],"
        "\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}";
    pc_jinja *t = NULL;
    pc_jinja_output out = {0};
    if (!variables && !(variables = json_loads(conversation, 0, NULL))) abort();
    if (pc_jinja_open(&t, (const char *)data, size)) return 0;
    if (!pc_jinja_render(t, &out, variables)) {
        if (out.size > PC_JINJA_OUTPUT_MAX) abort();
        pc_jinja_output_close(&out);
    }
    pc_jinja_close(t);
    return 0;
}
