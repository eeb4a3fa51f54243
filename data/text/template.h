/*
 * template.h - conversations into tokens, with the part that is learned marked by construction.
 *
 * A template writes a conversation as segments; each is tokenised by itself and carries whether it is
 * supervised. The label mask comes from these segments and never from re-tokenised text. Images are
 * segments of their own and atomic.
 *
 * Built in: vicuna_v1, plain, chatml, short (spec: llava.md 4). `short` is percept's own for small models and
 * spends one or two tokens on a turn beside its words ("?\n" may be one):
 *   <image> " question" "\n" " answer" <eos>        no space before what begins with no letter
 */
#ifndef PC_DATA_TEMPLATE_H
#define PC_DATA_TEMPLATE_H

#include "data/text/tokenizer.h"

typedef enum pc_role { PC_ROLE_SYSTEM, PC_ROLE_USER, PC_ROLE_ASSISTANT } pc_role;

typedef struct pc_message {
    pc_role role;
    const char *text; // "<image>" inside marks an image place, consumed in order
} pc_message;

typedef struct pc_template pc_template;
const pc_template *pc_template_find(const char *name); // NULL: none; see pc_template_names
const char *const *pc_template_names(int *count);
const char *pc_template_name(const pc_template *t);
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
} pc_rendered;
void pc_rendered_close(pc_rendered *r);

// `generate`: end with what invites the assistant to speak. The tokenizer must have what the template needs:
// otherwise PC_ERR_INPUT naming the token.
pc_status pc_template_render(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                             const pc_message *messages, int n, bool generate, int32_t image_id);
// The id that ends an answer under this template and tokenizer.
int32_t pc_template_stop(const pc_template *t, const pc_tokenizer *tok);

// Text with the supervised parts in [[ ]] and images as <image>; malloc'ed. For the first-batch report.
char *pc_rendered_text(const pc_rendered *r, const pc_tokenizer *tok, int32_t image_id);

#endif
