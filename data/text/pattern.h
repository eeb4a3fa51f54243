/*
 * pattern.h - what a `tokenizer.json` searches texts for: a regular expression or a plain text.
 *
 * Expressions there are written for another engine (Oniguruma): what means the same in PCRE2 is taken, white space
 * and word characters are spelled out so that they are Unicode's, and the rest is refused by name.
 */
#ifndef PC_DATA_PATTERN_H
#define PC_DATA_PATTERN_H

#include "model/core/status.h"

typedef struct pc_pattern {
    void *code; // pcre2_code; NULL: a plain text
    bool fast;  // compiled to machine code
    char *text;
    size_t size;
} pc_pattern;

extern const char pc_pattern_gpt2[], pc_pattern_qwen2[];

// PC_ERR_INPUT names the part of the pattern that cannot be taken. `literal`: plain text, not empty.
pc_status pc_pattern_open(pc_pattern *p, const char *text, size_t size, bool literal);
void pc_pattern_close(pc_pattern *p);

// Walking over the matches of one text. A match may be empty, but not right behind the one before it.
typedef struct pc_search {
    const pc_pattern *pattern;
    void *match; // pcre2_match_data
    const char *text;
    size_t size, from, last;
    bool matched;      // `last` is the end of a match
    size_t begin, end; // of the match found
} pc_search;
// Room for matches: one for a thread and a pattern, used again and again. NULL for plain texts.
pc_status pc_search_room(void **match, const pc_pattern *p);
void pc_search_free(void *match);
void pc_search_start(pc_search *s, const pc_pattern *p, void *match, const char *text, size_t size);
pc_status pc_search_next(pc_search *s, bool *found);

#endif
