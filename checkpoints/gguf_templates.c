/*
 * gguf_templates.c - our built-in layouts of conversations as chat templates that others run; see gguf_export.h.
 *
 * Without a template llama.cpp takes ChatML, which a LLaVA was never shown. The texts say what our layouts write, byte
 * for byte (a test renders both); the BOS in front is the vocabulary's to add.
 */
#include "checkpoints/gguf_export.h"

#include <string.h>

#define VICUNA(system)                                                                             \
    "{% if messages and messages[0]['role'] == 'system' %}"                                        \
    "{{ messages[0]['content'] + ' ' }}{% else %}{{ '" system " ' }}{% endif %}"                   \
    "{% for message in messages %}{% if message['role'] == 'user' %}"                              \
    "{{ 'USER: ' + message['content'] + ' ' }}{% elif message['role'] == 'assistant' %}"           \
    "{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"                     \
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"

static const struct {
    const char *name, *text;
} templates[] = {
    {"vicuna_v1",
     VICUNA("A chat between a curious user and an artificial intelligence assistant. The assistant "
            "gives helpful, detailed, and polite answers to the user\\'s questions.")},
    {"llava_v1",
     VICUNA(
         "A chat between a curious human and an artificial intelligence assistant. The assistant "
         "gives helpful, detailed, and polite answers to the human\\'s questions.")},
    {"chatml", "{% if not messages or messages[0]['role'] != 'system' %}"
               "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
               "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
               "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
               "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
};

const char *pc_gguf_chat_template(const char *name)
{
    for (size_t i = 0; name && i < sizeof templates / sizeof *templates; i++)
        if (!strcmp(templates[i].name, name)) return templates[i].text;
    return NULL;
}
