/*
 * words.h - text to words: the pre-tokeniser's steps (spec: tokenizers.md 2, 3), each applied to every piece that
 * the step before it left.
 */
#ifndef PC_DATA_WORDS_H
#define PC_DATA_WORDS_H

#include "data/text/pattern.h"

enum { PC_WORD_STEPS = 16 };

typedef enum pc_split_rule { // what becomes of the matches of a split
    PC_SPLIT_ISOLATED,       // pieces of their own
    PC_SPLIT_REMOVED,
    PC_SPLIT_WITH_PREVIOUS, // joined to the piece before
    PC_SPLIT_WITH_NEXT,
    PC_SPLIT_CONTIGUOUS, // neighbouring matches are one piece
} pc_split_rule;

typedef enum pc_word_kind {
    PC_WORD_SPLIT,
    PC_WORD_PREFIX, // a space before a piece that does not begin with one
    PC_WORD_MARK,   // Metaspace: spaces become `mark`; one before the piece; split before each
    PC_WORD_BYTES,  // the byte alphabet, for the steps behind it
} pc_word_kind;

typedef enum pc_mark_first { PC_MARK_NEVER, PC_MARK_FIRST, PC_MARK_ALWAYS } pc_mark_first;

typedef struct pc_word_step {
    pc_word_kind kind;
    pc_pattern pattern; // SPLIT, MARK (its text is the mark)
    pc_split_rule rule;
    bool invert;            // what the pattern does not find is the match
    pc_mark_first prefixed; // MARK: at the beginning of the text, or of every piece
    bool split;             // MARK
} pc_word_step;

typedef struct pc_word_rules {
    pc_word_step step[PC_WORD_STEPS];
    int count;
    bool coded; // words come out in the byte alphabet
} pc_word_rules;

// A new step at the end, to be filled in; NULL (with a message): too many.
pc_word_step *pc_word_rules_add(pc_word_rules *r, pc_word_kind kind);
// Matches and gaps of an expression as pieces.
pc_status pc_word_rules_split(pc_word_rules *r, const char *pattern);
void pc_word_rules_close(pc_word_rules *r);

// Calls `word` with every word of a valid UTF-8 text, in order; stops at the first status that is not PC_OK.
// `first`: nothing stands before the text.
typedef pc_status pc_word_fn(void *arg, const char *word, size_t size);
pc_status pc_words_each(const pc_word_rules *r, const char *text, size_t size, bool first,
                        pc_word_fn *word, void *arg);

#endif
