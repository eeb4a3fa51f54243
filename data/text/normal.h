/*
 * normal.h - texts before they are split: the normalisers of a `tokenizer.json`, one after the other.
 */
#ifndef PC_DATA_NORMAL_H
#define PC_DATA_NORMAL_H

#include "data/text/charsmap.h"
#include "data/text/pattern.h"

enum { PC_NORMAL_STEPS = 32 };

typedef enum pc_normal_kind {
    PC_NORMAL_FORM,    // Unicode's forms: NFC, NFD, NFKC, NFKD
    PC_NORMAL_LOWER,   // every character to lower case
    PC_NORMAL_STRIP,   // white space off the ends
    PC_NORMAL_ACCENTS, // marks are dropped
    PC_NORMAL_PREPEND, // `text` before a text that is not empty
    PC_NORMAL_REPLACE, // what the pattern finds becomes `text`
    PC_NORMAL_CONTROL, // SentencePiece's "nmt": control characters dropped, spaces of all kinds made one
    PC_NORMAL_CHARS, // SentencePiece's table of characters, as the library tokenizers applies it
    PC_NORMAL_BYTES, // the byte alphabet
} pc_normal_kind;

typedef struct pc_normal_step {
    pc_normal_kind kind;
    bool compose, compatible; // FORM
    bool left, right;         // STRIP
    pc_pattern pattern;       // REPLACE
    char *text;               // PREPEND, REPLACE
    size_t size;
    pc_charsmap chars;
} pc_normal_step;

typedef struct pc_normal {
    pc_normal_step step[PC_NORMAL_STEPS];
    int count;
} pc_normal;

// A new step at the end, to be filled in; NULL (with a message): too many.
pc_normal_step *pc_normal_add(pc_normal *n, pc_normal_kind kind);
void pc_normal_cut(pc_normal *n, int count); // drops the steps behind the first `count`
void pc_normal_close(pc_normal *n);

// Of valid UTF-8: *out is `text` itself or a malloc'ed copy (then *owned).
pc_status pc_normal_run(const pc_normal *n, const char **out, size_t *out_size, char **owned,
                        const char *text, size_t size);
// The composed form alone.
pc_status pc_normal_nfc(const char **out, size_t *out_size, char **owned, const char *text,
                        size_t size);

// Bytes that grow.
typedef struct pc_buffer {
    char *data;
    size_t used, room;
} pc_buffer;
pc_status pc_buffer_add(pc_buffer *b, const void *data, size_t size);

#endif
