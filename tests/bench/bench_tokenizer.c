/*
 * bench_tokenizer.c - how fast each kind of tokenizer encodes English and other text: MB a second of one core (time of the
 * thread, so that a busy machine does not count).
 *
 *   bench_tokenizer [TOKENIZER...]   without arguments: what lies in ../shared/tokenizers and ../shared/goldens/tokenizers
 *
 * The English text is made of the commonest words by their frequency (Zipf), with names, numbers and punctuation, so
 * that a cache of words sees new ones as it would in a book. Reported: the median of five runs over a fresh tokenizer
 * (first pass) and of five more (warm), and bytes a token.
 */
#include "checkpoints/gguf_model.h"
#include "data/text/tokenizer.h"
#include "model/core/file.h"
#include "model/core/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SIZE = 4 << 20, RUNS = 5 };

static const char *const words[] = {
    "the",         "of",         "and",         "to",           "a",
    "in",          "is",         "that",        "it",           "was",
    "for",         "on",         "are",         "as",           "with",
    "his",         "they",       "at",          "be",           "this",
    "from",        "have",       "or",          "by",           "one",
    "had",         "not",        "but",         "what",         "all",
    "were",        "when",       "we",          "there",        "can",
    "an",          "your",       "which",       "their",        "said",
    "if",          "do",         "will",        "each",         "about",
    "how",         "up",         "out",         "them",         "then",
    "she",         "many",       "some",        "so",           "these",
    "would",       "other",      "into",        "has",          "more",
    "her",         "two",        "like",        "him",          "see",
    "time",        "could",      "no",          "make",         "than",
    "first",       "been",       "picture",     "weather",      "mountain",
    "quickly",     "beautiful",  "different",   "through",      "because",
    "question",    "language",   "understand",  "government",   "international",
    "development", "photograph", "remember",    "children",     "something",
    "together",    "important",  "everything",  "particularly", "environment",
    "information", "knowledge",  "temperature", "experience",   "consideration"};
enum { WORDS = sizeof words / sizeof *words };
static const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_TEST};
static uint64_t drawn;

static uint32_t draw(uint32_t below)
{
    return pc_rng_u32(&key, drawn++) % below;
}

/* A word that no list holds: syllables. */
static size_t new_word(char *out)
{
    static const char *const syllables[] = {"ba", "con", "der",  "el", "fi",  "gra", "hol",
                                            "in", "ka",  "lo",   "mi", "nor", "pre", "qua",
                                            "re", "st",  "tion", "ur", "ver", "wyn"};
    size_t n = 0;
    for (uint32_t i = 2 + draw(3); i > 0; i--) {
        const char *s = syllables[draw(20)];
        memcpy(out + n, s, strlen(s));
        n += strlen(s);
    }
    if (draw(3) == 0) out[0] = (char)(out[0] - 32);
    return n;
}

static char *english(void)
{
    char *text = malloc(SIZE + 64);
    size_t n = 0;
    while (n < SIZE) {
        const uint32_t kind = draw(100);
        if (kind < 84) { // by rank: the word of rank r has weight 1 / (r + 2)
            const double u = (double)draw(1 << 20) / (1 << 20);
            const int r = (int)(2.0 * pow((WORDS + 2) / 2.0, u)) - 2;
            const char *w = words[r < 0 ? 0 : r >= WORDS ? WORDS - 1 : r];
            memcpy(text + n, w, strlen(w));
            n += strlen(w);
        } else if (kind < 96) {
            n += new_word(text + n);
        } else {
            n += (size_t)sprintf(text + n, "%u", draw(3000));
        }
        const uint32_t mark = draw(100);
        const char *gap = mark < 86   ? " "
                          : mark < 91 ? ", "
                          : mark < 96 ? ". "
                          : mark < 98 ? "'s "
                          : mark < 99 ? ".\n\n"
                                      : " (";
        memcpy(text + n, gap, strlen(gap));
        n += strlen(gap);
    }
    text[SIZE] = '\0';
    return text;
}

/* Ideographs without spaces, drawn likewise. */
static char *chinese(void)
{
    char *text = malloc(SIZE + 8);
    size_t n = 0;
    while (n + 3 <= SIZE) {
        const double u = (double)draw(1 << 20) / (1 << 20);
        const unsigned code = draw(18) == 0 ? 0x3002 : 0x4E00 + (unsigned)pow(4000.0, u) * 5;
        text[n++] = (char)(0xE0 | code >> 12);
        text[n++] = (char)(0x80 | (code >> 6 & 63));
        text[n++] = (char)(0x80 | (code & 63));
    }
    text[n] = '\0';
    return text;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static pc_status open_any(pc_tokenizer **out, const char *path)
{
    const size_t n = strlen(path);
    if (n < 5 || strcmp(path + n - 5, ".gguf") != 0) return pc_tokenizer_open(out, path);
    pc_gguf *g = NULL;
    pc_status st = pc_gguf_open(&g, path);
    if (!st) st = pc_gguf_tokenizer(out, g);
    pc_gguf_close(g);
    return st;
}

static bool bench(const char *path, const char *what, const char *text)
{
    double first[RUNS], warm[RUNS], open = 0;
    const size_t size = strlen(text);
    int64_t tokens = 0;
    for (int i = 0; i < RUNS; i++) {
        pc_tokenizer *t = NULL;
        const double begin = now();
        if (open_any(&t, path)) {
            fprintf(stderr, "%s\n", pc_error_text());
            return false;
        }
        open = now() - begin;
        for (int pass = 0; pass < 2; pass++) {
            pc_ids ids = {0};
            const double from = now();
            if (pc_tokenizer_encode(t, &ids, text, size, true)) {
                fprintf(stderr, "%s\n", pc_error_text());
                return false;
            }
            (pass ? warm : first)[i] = (double)size / (now() - from) / 1e6;
            tokens = ids.count;
            pc_ids_close(&ids);
        }
        pc_tokenizer_close(t);
    }
    qsort(first, RUNS, sizeof *first, by_size);
    qsort(warm, RUNS, sizeof *warm, by_size);
    const char *slash = strrchr(path, '/');
    printf("%-36s %-8s %6.1f MB/s first, %6.1f warm, %5.2f bytes a token, opened in %4.0f ms\n",
           slash ? slash + 1 : path, what, first[RUNS / 2], warm[RUNS / 2],
           (double)size / (double)tokens, 1e3 * open);
    return true;
}

int main(int argc, char **argv)
{
    static const char *const usual[] = {
        "../shared/tokenizers/ggml-vocab-gpt-2.gguf",
        "../shared/tokenizers/ggml-vocab-qwen2.gguf",
        "../shared/tokenizers/ggml-vocab-deepseek-llm.gguf",
        "../shared/tokenizers/ggml-vocab-llama-spm.gguf",
        "../shared/tokenizers/llama-sentencepiece.model",
        "../shared/tokenizers/clip-bpe_simple_vocab_16e6.txt.gz",
        "../shared/goldens/tokenizers/llama_spm",
        "../shared/goldens/tokenizers/qwen2_bpe",
    };
    const int n = argc > 1 ? argc - 1 : (int)(sizeof usual / sizeof *usual);
    char *texts[2] = {english(), chinese()};
    int failed = 0;
    const char *out = getenv("BENCH_TEXT"); // to run another program on the same text
    if (out && pc_file_write(out, texts[0], strlen(texts[0])))
        fprintf(stderr, "%s\n", pc_error_text());
    for (int i = 0; i < n; i++) {
        const char *path = argc > 1 ? argv[i + 1] : usual[i];
        if (argc == 1 && !pc_file_exists(path) && !pc_is_dir(path)) {
            printf("%s is not there\n", path);
            continue;
        }
        failed |= !bench(path, "English", texts[0]) || !bench(path, "Chinese", texts[1]);
    }
    free(texts[0]);
    free(texts[1]);
    return failed;
}
