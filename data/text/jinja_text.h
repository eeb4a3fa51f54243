/*
 * jinja_text.h - what methods and filters of the template language do to texts. Origins are kept.
 */
#ifndef PC_DATA_JINJA_TEXT_H
#define PC_DATA_JINJA_TEXT_H

#include "data/text/jinja_parts.h"

jstr jtext_upper(jrun *r, jstr s);
jstr jtext_lower(jrun *r, jstr s);
jstr jtext_capitalize(jrun *r, jstr s); // the first character large, the others small
jstr jtext_title(jrun *r, jstr s);      // so for every run of letters
jstr jtext_replace(jrun *r, jstr s, jstr from, jstr to, int64_t most); // most -1: all
int64_t jtext_find(jstr s, jstr what, bool last);                      // byte, -1: none
jvalue jtext_split(jrun *r, jstr s, jstr by, int64_t most, bool from_right);
jvalue jtext_words(jrun *r, jstr s, int64_t most);
jvalue jtext_lines(jrun *r, jstr s, bool keep_ends);

typedef enum jtext_kind {
    JTEXT_DIGIT,
    JTEXT_ALPHA,
    JTEXT_ALNUM,
    JTEXT_SPACE,
    JTEXT_UPPER,
    JTEXT_LOWER,
} jtext_kind;
// Python's isdigit and its like: all characters are, and there is one.
bool jtext_is(jstr s, jtext_kind kind);

#endif
