/*
 * pope.c - see pope.h.
 */
#include "data/metrics/pope.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static bool is_word(const char *word, size_t n, const char *text)
{
    return strlen(text) == n && !strncmp(word, text, n);
}

bool pc_pope_yes(const char *answer)
{
    const char *end = strchr(answer, '.');
    char word[8];
    size_t n = 0;

    if (!end) end = answer + strlen(answer);
    // Commas are deleted, not replaced; words end at single spaces, and at nothing else.
    for (const char *c = answer;; c++) {
        if (c == end || *c == ' ') {
            if (n < sizeof word &&
                (is_word(word, n, "No") || is_word(word, n, "not") || is_word(word, n, "no")))
                return false;
            n = 0;
            if (c == end) return true;
        } else if (*c != ',') {
            if (n < sizeof word) word[n] = *c;
            n++;
        }
    }
}

bool pc_pope_decided(const char *answer)
{
    for (const char *c = answer; *c;) {
        while (*c && !isalpha((unsigned char)*c)) c++;
        const char *w = c;
        while (isalpha((unsigned char)*c)) c++;
        const size_t n = (size_t)(c - w);
        if ((n == 3 && !strncasecmp(w, "yes", 3)) || (n == 2 && !strncasecmp(w, "no", 2)) ||
            (n == 3 && !strncasecmp(w, "not", 3)))
            return true;
    }
    return false;
}

void pc_pope_add(pc_pope *p, const char *answer, bool truth)
{
    const bool yes = pc_pope_yes(answer);
    p->evasive += !pc_pope_decided(answer);
    if (yes)
        *(truth ? &p->tp : &p->fp) += 1;
    else
        *(truth ? &p->fn : &p->tn) += 1;
}

static double share(int64_t a, int64_t b)
{
    return b ? (double)a / (double)b : 0.0;
}

pc_pope_score pc_pope_result(const pc_pope *p)
{
    pc_pope_score s = {.n = p->tp + p->fp + p->tn + p->fn};

    s.accuracy = share(p->tp + p->tn, s.n);
    s.precision = share(p->tp, p->tp + p->fp);
    s.recall = share(p->tp, p->tp + p->fn);
    s.f1 = s.precision + s.recall > 0.0 ? 2.0 * s.precision * s.recall / (s.precision + s.recall)
                                        : 0.0;
    s.yes_ratio = share(p->tp + p->fp, s.n);
    return s;
}
