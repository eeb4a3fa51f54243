/*
 * template_parts.h - inside the templates; not for other rooms.
 *
 *   template.h           what the others use
 *   template.c           a conversation through a built-in template
 *   template_write.c     segments to ids
 *   template_builtin.c   the built-in ones, and their table
 *   template_source.c    those read from a model
 *   template_messages.c  messages in their two forms
 */
#ifndef PC_DATA_TEMPLATE_PARTS_H
#define PC_DATA_TEMPLATE_PARTS_H

#include "data/text/jinja.h"
#include "data/text/template.h"

#define PC_IMAGE_MARK "<image>"

typedef struct renderer renderer;

struct pc_template {
    const char *name;
    const char *specials[6];
    int special_count;
    const char *system; // said when the conversation has no system message; NULL: nothing
    bool bos;           // begins with the tokenizer's BOS where it has one
    const char *stop;   // the token that ends an answer; NULL: the tokenizer's EOS
    pc_status (*begin)(renderer *r, const char *system);
    pc_status (*user)(renderer *r, const char *text, bool first);
    pc_status (*invite)(renderer *r);
    pc_status (*answer)(renderer *r, const char *text);
    const char *unanswered; // behind a last user turn that is neither answered nor invites
    bool spaced;            // answers stand behind a space
    // From a source:
    pc_jinja *jinja;
    char *own_name, *source;
    json_t *tokens; // bos_token ..; NULL: the tokenizer's
    bool lists;     // contents are lists of parts
};

struct renderer {
    const pc_template *t;
    const pc_tokenizer *tok;
    pc_rendered *out;
    int32_t image_id, stop_id;
    const char *system; // of the conversation, for templates that say it within the first turn
    char *text;         // of the segment under way
    size_t used, room;
    char *run; // since the last special token: its ids begin at run_ids
    size_t run_used, run_room;
    int64_t run_ids;
    size_t said, said_room, learned_to; // bytes of out->text; where what is learned ended last
    int64_t flags_room, turns_room, answers_room;
    int64_t pictures; // image places so far
};

/* ---- segments (template_write.c) ---- */

pc_status pc_write_text(renderer *r, const char *text, size_t size);
pc_status pc_write(renderer *r, const char *text);
// The segment's text becomes ids, in the light of what stands before it since the last special token.
pc_status pc_write_end(renderer *r, bool supervised);
// A special token by id or name.
pc_status pc_write_id(renderer *r, int32_t id, bool supervised);
pc_status pc_write_token(renderer *r, const char *token, bool supervised);
pc_status pc_write_frame(renderer *r, int32_t id); // in front, no part of the text
pc_status pc_write_stop(renderer *r);              // the token that ends an answer, supervised
pc_status pc_write_image(renderer *r);
pc_status pc_write_with_images(renderer *r, const char *text, size_t size);
pc_status pc_write_turn_end(renderer *r);
pc_status pc_write_answer(renderer *r, int64_t begin, int64_t end); // bytes
void pc_writer_close(renderer *r);
pc_status pc_mark_ids(pc_rendered *out, int64_t *room, int64_t from, bool supervised);

const pc_template *pc_builtin_templates(int *count);

/* ---- templates from a source (template_source.c) ---- */

pc_status pc_source_render(const pc_template *t, pc_rendered *out, const pc_tokenizer *tok,
                           const json_t *messages, bool generate, int32_t image_id, int64_t images);
int32_t pc_source_stop(const pc_template *t, const pc_tokenizer *tok);

/* ---- messages (template_messages.c) ---- */

// As JSON, contents in lists or as texts; NULL: no memory. *images: the marks.
json_t *pc_messages_json(const pc_message *messages, int n, bool lists, const char *image_text,
                         int64_t *images);
// The same messages with the contents in the form asked for; a new reference.
pc_status pc_messages_in_form(json_t **out, const json_t *messages, bool lists);
// Into role and text; texts[i] are malloc'ed.
pc_status pc_messages_read(pc_message *m, char **texts, const json_t *list, size_t n);

#endif
