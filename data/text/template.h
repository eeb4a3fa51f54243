/*
 * template.h - conversations into tokens, with the part that is learned marked by construction.
 *
 * Two kinds behind one call. Built-in templates write a conversation as segments; each becomes ids of its own and
 * carries whether it is supervised; what users write never becomes a special token. Templates read from a model's
 * chat_template (jinja.h) are rendered to the byte; the answers are found in the output by what the template itself
 * prints for the conversation up to them. In neither case does a mask come from counting re-tokenised text.
 * Images are ids of their own and atomic.
 *
 * Built in (spec: llava.md 4, deepseek-vl.md 5, qwen-vl.md 2): vicuna_v1 (also llava_v1_original), llava_v1,
 * llava_llama_2, mistral_instruct, chatml_direct, plain, chatml, qwen, qwen2_vl, llama2, llama3, deepseek_vl,
 * deepseek, short. `short` is percept's own for small models and spends one or two tokens on a turn beside its words
 * ("?\n" may be one):
 *   <image> " question" "\n" " answer" <eos>        no space before what begins with no letter
 */
#ifndef PC_DATA_TEMPLATE_H
#define PC_DATA_TEMPLATE_H

#include "data/text/tokenizer.h"

#include <jansson.h>

typedef enum pc_role { PC_ROLE_SYSTEM, PC_ROLE_USER, PC_ROLE_ASSISTANT } pc_role;

typedef struct pc_message {
    pc_role role;
    const char *text; // "<image>" inside marks an image place, consumed in order
} pc_message;

typedef struct pc_template pc_template;
const pc_template *pc_template_find(const char *name); // NULL: none; see pc_template_names
const char *const *pc_template_names(int *count);

/*
 * A chat_template's source. `tokens` is an object of the tokenizer's own, {"bos_token": "<s>", ...} (values may be
 * {"content": ..} as tokenizer_config.json has them); NULL: those of the tokenizer it is used with. PC_ERR_FORMAT
 * names the construct and its line, and says that a built-in template may be chosen instead.
 */
pc_status pc_template_open(pc_template **out, const char *name, const char *source, size_t size,
                           const json_t *tokens);
/*
 * What a published directory says: chat_template.jinja, chat_template.json or the chat_template of
 * tokenizer_config.json, in this order; of several named ones "default". *out NULL with PC_OK: there is none.
 */
pc_status pc_template_open_dir(pc_template **out, const char *dir);
void pc_template_close(const pc_template *t); // built-in ones and NULL are fine

const char *pc_template_name(const pc_template *t);
const char *
pc_template_text(const pc_template *t); // what a checkpoint keeps: a built-in name, or the source
bool pc_template_is_source(const char *text); // whether such a text is a source
// Special tokens a tokenizer trained for this template must have, e.g. "<image>", "</s>".
const char *const *pc_template_specials(const pc_template *t, int *count);

typedef struct pc_rendered {
    pc_ids ids;          // image places hold image_id, one each
    uint8_t *supervised; // per id
    int64_t *turn_end;   // id index one past each user-assistant turn (for branches)
    int64_t turns;       // an unanswered last question is none
    int64_t
        first_turn; // id index where the first turn's text begins: behind BOS, system and leading image
    int64_t images;
    char *text;     // what the ids between `framed` and `tail` say; NUL-terminated
    int64_t framed; // ids in front that are no part of the text (BOS)
    int64_t tail;   // ids at the end that are no part of it (the stop that a template leaves out)
    int64_t (*answer)[2]; // bytes of each answer in `text`; -1, -1: not to be told from the text
    int64_t answers;
} pc_rendered;
void pc_rendered_close(pc_rendered *r);

// `generate`: end with what invites the assistant to speak. The tokenizer must have what the template needs:
// otherwise PC_ERR_INPUT naming the token. PC_ERR_INPUT too when the template shows not as many images as the
// messages have.
pc_status pc_template_render(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                             const pc_message *messages, int n, bool generate, int32_t image_id);
/*
 * Messages as JSON: [{"role", "content": a text, or a list of {"type": "image"} and {"type": "text", "text"}}].
 * Where the template expects the other form of content it is given that one.
 */
pc_status pc_template_render_json(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                                  const json_t *messages, bool generate, int32_t image_id);
// The id that ends an answer under this template and tokenizer.
int32_t pc_template_stop(const pc_template *t, const pc_tokenizer *tok);

// Text with the supervised parts in [[ ]] and images as <image>; malloc'ed. For the first-batch report.
char *pc_rendered_text(const pc_rendered *r, const pc_tokenizer *tok, int32_t image_id);

#endif
