/*
 * words.c - one level of recursion for every step, so that no list of pieces is ever made.
 */
#include "data/text/words.h"
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

pc_word_step *pc_word_rules_add(pc_word_rules *r, pc_word_kind kind)
{
    if (r->count == PC_WORD_STEPS) {
        pc_fail(PC_ERR_INPUT, "more than %d splitting steps", PC_WORD_STEPS);
        return NULL;
    }
    pc_word_step *s = &r->step[r->count++];
    *s = (pc_word_step){.kind = kind};
    return s;
}

pc_status pc_word_rules_split(pc_word_rules *r, const char *pattern)
{
    pc_word_step *s = pc_word_rules_add(r, PC_WORD_SPLIT);
    return s ? pc_pattern_open(&s->pattern, pattern, strlen(pattern), false) : PC_ERR_INPUT;
}

void pc_word_rules_close(pc_word_rules *r)
{
    for (int i = 0; i < r->count; i++) pc_pattern_close(&r->step[i].pattern);
    *r = (pc_word_rules){0};
}

typedef struct walk {
    const pc_word_rules *rules;
    void *match[PC_WORD_STEPS];
    pc_word_fn *word;
    void *arg;
} walk;

static pc_status walk_piece(walk *w, int step, const char *text, size_t size, bool first);

/* ---- splits ---- */

/* Matches and gaps come in order; some rules let a piece wait for the next one. */
typedef struct cutter {
    walk *w;
    const pc_word_step *s;
    int step;
    const char *text;
    bool first;                  // of the whole text
    size_t begin, end;           // the waiting piece
    bool waits, match, previous; // there is one; it is a match; the last one seen was
} cutter;

static pc_status emit(cutter *c, size_t begin, size_t end)
{
    if (begin == end) return PC_OK;
    return walk_piece(c->w, c->step + 1, c->text + begin, end - begin, c->first && begin == 0);
}

static pc_status cut(cutter *c, size_t begin, size_t end, bool match)
{
    pc_status st = PC_OK;
    if (c->s->invert) match = !match;
    switch (c->s->rule) {
    case PC_SPLIT_ISOLATED: return emit(c, begin, end);
    case PC_SPLIT_REMOVED: return match ? PC_OK : emit(c, begin, end);
    case PC_SPLIT_CONTIGUOUS:
        if (c->waits && c->match == match) {
            c->end = end;
            return PC_OK;
        }
        break;
    case PC_SPLIT_WITH_PREVIOUS:
        if (c->waits && match && !c->previous) {
            c->end = end;
            c->previous = true;
            return PC_OK;
        }
        break;
    case PC_SPLIT_WITH_NEXT:
        if (c->waits && c->match && !match) {
            c->end = end;
            c->match = false;
            return PC_OK;
        }
        break;
    }
    if (c->waits) st = emit(c, c->begin, c->end);
    c->waits = true;
    c->begin = begin;
    c->end = end;
    c->match = c->previous = match;
    return st;
}

static pc_status walk_split(walk *w, int step, const char *text, size_t size, bool first)
{
    const pc_word_step *s = &w->rules->step[step];
    cutter c = {.w = w, .s = s, .step = step, .text = text, .first = first};
    pc_search search;
    bool found;
    size_t done = 0;
    pc_status st;
    pc_search_start(&search, &s->pattern, w->match[step], text, size);
    while (!(st = pc_search_next(&search, &found)) && found) {
        const size_t begin = search.begin, end = search.end;
        if (begin > done && (st = cut(&c, done, begin, false))) return st;
        if ((st = cut(&c, begin, end, true))) return st;
        done = end;
    }
    if (!st && done < size) st = cut(&c, done, size, false);
    if (!st && c.waits) st = emit(&c, c.begin, c.end);
    return st;
}

/* ---- steps that change the text ---- */

static pc_status walk_prefix(walk *w, int step, const char *text, size_t size, bool first)
{
    if (text[0] == ' ') return walk_piece(w, step + 1, text, size, first);
    char *longer = malloc(size + 1);
    if (!longer) return pc_fail(PC_ERR_MEMORY, "a text of %zu bytes", size);
    longer[0] = ' ';
    memcpy(longer + 1, text, size);
    pc_status st = walk_piece(w, step + 1, longer, size + 1, first);
    free(longer);
    return st;
}

/* Before every mark but one at the very beginning. */
static pc_status walk_marked(walk *w, int step, const char *text, size_t size, bool first)
{
    const pc_word_step *s = &w->rules->step[step];
    const char *mark = s->pattern.text;
    const size_t n = s->pattern.size;
    if (!s->split) return walk_piece(w, step + 1, text, size, first);
    pc_status st = PC_OK;
    for (size_t begin = 0; begin < size && !st;) {
        const size_t from =
            begin + (size - begin >= n && memcmp(text + begin, mark, n) == 0 ? n : 1);
        const char *next = from < size ? memmem(text + from, size - from, mark, n) : NULL;
        const size_t end = next ? (size_t)(next - text) : size;
        st = walk_piece(w, step + 1, text + begin, end - begin, first && begin == 0);
        begin = end;
    }
    return st;
}

static pc_status walk_mark(walk *w, int step, const char *text, size_t size, bool first)
{
    const pc_word_step *s = &w->rules->step[step];
    const char *mark = s->pattern.text;
    const size_t n = s->pattern.size;
    const bool begun = size >= n && memcmp(text, mark, n) == 0;
    const bool prefix = !begun && text[0] != ' ' &&
                        (s->prefixed == PC_MARK_ALWAYS || (s->prefixed == PC_MARK_FIRST && first));
    pc_buffer out = {0};
    pc_status st = prefix ? pc_buffer_add(&out, mark, n) : PC_OK;
    for (size_t at = 0; at < size && !st;) {
        const char *space = memchr(text + at, ' ', size - at);
        const size_t end = space ? (size_t)(space - text) : size;
        st = pc_buffer_add(&out, text + at, end - at);
        if (!st && space) st = pc_buffer_add(&out, mark, n);
        at = end + (space != NULL);
    }
    if (!st) st = walk_marked(w, step, out.data, out.used, first);
    free(out.data);
    return st;
}

static pc_status walk_bytes(walk *w, int step, const char *text, size_t size, bool first)
{
    pc_buffer out = {0};
    pc_status st = PC_OK;
    for (size_t i = 0; i < size && !st; i++) {
        unsigned char coded[4];
        const int n = pc_utf8_put(coded, pc_byte_char((unsigned char)text[i]));
        st = pc_buffer_add(&out, coded, (size_t)n);
    }
    if (!st) st = walk_piece(w, step + 1, out.data, out.used, first);
    free(out.data);
    return st;
}

static pc_status walk_piece(walk *w, int step, const char *text, size_t size, bool first)
{
    if (step == w->rules->count) return w->word(w->arg, text, size);
    switch (w->rules->step[step].kind) {
    case PC_WORD_SPLIT: return walk_split(w, step, text, size, first);
    case PC_WORD_PREFIX: return walk_prefix(w, step, text, size, first);
    case PC_WORD_MARK: return walk_mark(w, step, text, size, first);
    case PC_WORD_BYTES: return walk_bytes(w, step, text, size, first);
    }
    return PC_OK;
}

pc_status pc_words_each(const pc_word_rules *r, const char *text, size_t size, bool first,
                        pc_word_fn *word, void *arg)
{
    if (size == 0) return PC_OK;
    walk w = {.rules = r, .word = word, .arg = arg};
    pc_status st = PC_OK;
    for (int i = 0; i < r->count && !st; i++) st = pc_search_room(&w.match[i], &r->step[i].pattern);
    if (!st) st = walk_piece(&w, 0, text, size, first);
    for (int i = 0; i < r->count; i++) pc_search_free(w.match[i]);
    return st;
}
