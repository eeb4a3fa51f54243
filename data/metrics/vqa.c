/*
 * vqa.c - see vqa.h.
 *
 * The official table of 120 contractions is complete by rules: a stem and an ending. They are kept as rules.
 */
#include "data/metrics/vqa.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Stems that take an ending, space separated, each with a space on either side.
static const struct {
    const char *written, *meant, *stems;
} endings[] = {
    {"nt", "n't",
     " ai are ca could did does do had has have is might must need ought sha should was were wo "
     "would "},
    {"ve", "'ve", " could might must not should they we what where who would you "},
    {"nt've", "n't've", " could had might should would "},
    {"n'tve", "n't've", " could had might should would "},
    {"d've", "'d've", " he it she someone something somebody there they we who you "},
    {"'dve", "'d've", " he it she someone something somebody there they we who you "},
    {"d", "'d", " he how it someone something there they where who you "},
    {"ll", "'ll", " how it somebody someone something they what who why you "},
    {"s", "'s", " he how somebody someone that there what when where who why "},
    {"re", "'re", " there they what why you "},
};

static const struct {
    const char *written, *meant;
} whole[] = {
    {"yall'd've", "y'all'd've"}, {"y'alld've", "y'all'd've"}, {"y'all'dve", "y'all'd've"},
    {"somebody'd", "somebodyd"}, {"yall'll", "y'all'll"},     {"y'allll", "y'all'll"},
    {"maam", "ma'am"},           {"oclock", "o'clock"},       {"twas", "'twas"},
    {"yall", "y'all"},           {"ow's'at", "'ow's'at"},     {"'ows'at", "'ow's'at"},
    {"'ow'sat", "'ow's'at"},
};

// The official table has "Ive" and "Im" too, which never match: words are lower-case by then.
static bool stem_listed(const char *stems, const char *stem, size_t n)
{
    char key[32];
    if (n == 0 || n + 3 > sizeof key) return false;
    key[0] = ' ';
    memcpy(key + 1, stem, n);
    key[n + 1] = ' ';
    key[n + 2] = '\0';
    return strstr(stems, key) != NULL;
}

const char *pc_vqa_contraction(char *buf, size_t size, const char *word)
{
    const size_t n = strlen(word);

    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (!strcmp(word, whole[i].written)) {
            snprintf(buf, size, "%s", whole[i].meant);
            return buf;
        }
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        const size_t k = strlen(endings[i].written);
        if (n <= k || strcmp(word + n - k, endings[i].written)) continue;
        if (!stem_listed(endings[i].stems, word, n - k)) continue;
        snprintf(buf, size, "%.*s%s", (int)(n - k), word, endings[i].meant);
        return buf;
    }
    snprintf(buf, size, "%s", word);
    return buf;
}

static const char *digit_of(const char *word)
{
    static const char *const words[][2] = {
        {"none", "0"}, {"zero", "0"}, {"one", "1"},   {"two", "2"},   {"three", "3"}, {"four", "4"},
        {"five", "5"}, {"six", "6"},  {"seven", "7"}, {"eight", "8"}, {"nine", "9"},  {"ten", "10"},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strcmp(word, words[i][0])) return words[i][1];
    return word;
}

static bool comma_in_number(const char *s)
{
    for (const char *c = strchr(s, ','); c; c = strchr(c + 1, ','))
        if (c > s && isdigit((unsigned char)c[-1]) && isdigit((unsigned char)c[1])) return true;
    return false;
}

// A mark is deleted when it stands beside a space anywhere, or the text has a comma inside a number; otherwise
// it becomes a space. Then periods that no digit follows go.
static void punctuation(char *out, const char *in)
{
    static const char marks[] = ";/[]\"{}()=+\\_-><@`,?!";
    const bool number = comma_in_number(in);
    bool drop[256] = {false}, mark[256] = {false};

    for (const char *m = marks; *m; m++) {
        const char before[] = {*m, ' ', '\0'}, behind[] = {' ', *m, '\0'};
        mark[(unsigned char)*m] = true;
        drop[(unsigned char)*m] = number || strstr(in, before) || strstr(in, behind);
    }
    char *o = out;
    for (const char *c = in; *c; c++) {
        if (!mark[(unsigned char)*c])
            *o++ = *c;
        else if (!drop[(unsigned char)*c])
            *o++ = ' ';
    }
    *o = '\0';
    char *w = out;
    int removed = 0; // the official call limits itself to 32
    for (const char *c = out; *c; c++) {
        if (*c == '.' && !isdigit((unsigned char)c[1]) && removed < 32) {
            removed++;
            continue;
        }
        *w++ = *c;
    }
    *w = '\0';
}

// Lower case, digits, no articles, contractions; words joined with single spaces. `out` has room for
// twice the input: a contraction grows a word by one character or two.
static void words(char *out, char *text)
{
    char *save = NULL, *o = out, buf[256];

    for (char *c = text; *c; c++) *c = (char)tolower((unsigned char)*c);
    for (char *w = strtok_r(text, " \t\n\r\v\f", &save); w;
         w = strtok_r(NULL, " \t\n\r\v\f", &save)) {
        const char *x = digit_of(w);
        if (!strcmp(x, "a") || !strcmp(x, "an") || !strcmp(x, "the")) continue;
        if (strlen(x) < sizeof buf - 4) x = pc_vqa_contraction(buf, sizeof buf, x);
        const size_t n = strlen(x);
        if (o > out) *o++ = ' ';
        memcpy(o, x, n);
        o += n;
    }
    *o = '\0';
}

static char *normal_form(const char *answer, bool punctuate)
{
    const size_t n = strlen(answer);
    char *a = malloc(n + 1), *b = malloc(2 * n + 4);

    if (!a || !b) {
        free(a);
        free(b);
        return NULL;
    }
    size_t begin = 0, end = n;
    while (begin < end && isspace((unsigned char)answer[begin])) begin++;
    while (end > begin && isspace((unsigned char)answer[end - 1])) end--;
    for (size_t i = begin; i < end; i++)
        a[i - begin] = answer[i] == '\n' || answer[i] == '\t' ? ' ' : answer[i];
    a[end - begin] = '\0';
    if (punctuate) {
        punctuation(b, a);
        memcpy(a, b, strlen(b) + 1);
    }
    words(b, a);
    free(a);
    return b;
}

char *pc_vqa_normalise(const char *answer)
{
    return normal_form(answer, true);
}

bool pc_vqa_exact(const char *answer, const char *truth)
{
    char *a = pc_vqa_normalise(answer), *b = pc_vqa_normalise(truth);
    const bool same = a && b && !strcmp(a, b);
    free(a);
    free(b);
    return same;
}

double pc_vqa_consensus(const char *answer, const char *const *humans, int n)
{
    char *a = pc_vqa_normalise(answer);
    bool identical = true;
    int m = 0;

    for (int i = 1; i < n; i++) identical = identical && !strcmp(humans[i], humans[0]);
    for (int i = 0; i < n && a; i++) {
        // Where all agree, their answer is compared as it stands.
        char *h = identical ? NULL : normal_form(humans[i], true);
        m += !strcmp(a, h ? h : humans[i]);
        free(h);
    }
    free(a);
    if (n < 1) return 0.0;
    // m of the n leave one match out, the others leave none.
    const double with = m - 1 > 3 ? 1.0 : (m > 0 ? (double)(m - 1) / 3.0 : 0.0);
    const double without = m > 3 ? 1.0 : (double)m / 3.0;
    const double score =
        ((double)m * (with < 1.0 ? with : 1.0) + (double)(n - m) * without) / (double)n;
    return score < 1.0 ? score : 1.0;
}
