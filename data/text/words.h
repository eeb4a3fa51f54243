/*
 * words.h - text to words: normalisation, then the pre-tokeniser's splits (spec: tokenizers.md 2, 3).
 *
 * A rule set is a list of steps, each applied to every piece that the step before it left. Patterns are
 * those of `tokenizer.json`, written for another engine (Oniguruma): what means the same in PCRE2 is taken,
 * white space is spelled out so that it is Unicode's, and the rest is refused by name.
 */
#ifndef PC_DATA_WORDS_H
#define PC_DATA_WORDS_H

#include "model/core/status.h"

#define PC_WORD_STEPS 16

typedef struct pc_word_step {
    void *code; // pcre2_code: matches and the gaps between them become pieces; NULL: no split
    bool prefix_space; // a space is put before a piece that does not begin with one
} pc_word_step;

typedef struct pc_word_rules {
    bool nfc; // texts are brought to Unicode's composed form first
    pc_word_step step[PC_WORD_STEPS];
    int count;
} pc_word_rules;

extern const char pc_pattern_gpt2[], pc_pattern_qwen2[];

// PC_ERR_INPUT names the part of the pattern that cannot be taken. `literal`: plain text, no pattern.
pc_status pc_word_rules_split(pc_word_rules *r, const char *pattern, bool literal);
pc_status pc_word_rules_prefix_space(pc_word_rules *r);
void pc_word_rules_close(pc_word_rules *r);

// NFC of valid UTF-8 where the rules ask for it: *out is `text` itself or a malloc'ed copy (then *owned).
pc_status pc_words_normalise(const pc_word_rules *r, const char **out, size_t *out_size,
                             char **owned, const char *text, size_t size);

// Calls `word` with every word of a valid UTF-8 text, in order; stops at the first status that is not PC_OK.
typedef pc_status pc_word_fn(void *arg, const char *word, size_t size);
pc_status pc_words_each(const pc_word_rules *r, const char *text, size_t size, pc_word_fn *word,
                        void *arg);

#endif
