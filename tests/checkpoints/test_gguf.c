/*
 * test_gguf.c - GGUF files: what is written comes back; every broken rule of the format ends in a message that names
 * it, and costs no more memory than the file; thousands of flipped bytes never crash.
 */
#include "checkpoints/gguf.h"
#include "checkpoints/gguf_model.h"
#include "model/core/file.h"
#include "model/core/rng.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const pc_rng_key numbers = {.seed = 11, .stream = PC_STREAM_TEST};
static uint64_t drawn;

static double uniform(void)
{
    return pc_rng_uniform(&numbers, drawn++);
}

/* ---- bytes of a file, put together by hand ---- */

typedef struct bytes {
    unsigned char data[1 << 14];
    size_t size;
} bytes;

static void put(bytes *b, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++) b->data[b->size++] = (unsigned char)(v >> 8 * i);
}

static void put_string(bytes *b, const char *s)
{
    put(b, strlen(s), 8);
    memcpy(b->data + b->size, s, strlen(s));
    b->size += strlen(s);
}

static void head(bytes *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
    *b = (bytes){0};
    put(b, 0x46554747, 4);
    put(b, version, 4);
    put(b, tensors, 8);
    put(b, keys, 8);
}

static void key(bytes *b, const char *name, pc_gguf_kind kind)
{
    put_string(b, name);
    put(b, kind, 4);
}

static void info(bytes *b, const char *name, int rank, const uint64_t *dim, uint32_t type,
                 uint64_t offset)
{
    put_string(b, name);
    put(b, (uint64_t)rank, 4);
    for (int i = 0; i < rank; i++) put(b, dim[i], 8);
    put(b, type, 4);
    put(b, offset, 8);
}
#define DIM(...)                                                                                   \
    (int)(sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)), (uint64_t[])                      \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void data(bytes *b, unsigned align, size_t n)
{
    while (b->size % align) b->data[b->size++] = 0;
    for (size_t i = 0; i < n; i++) b->data[b->size++] = (unsigned char)i;
}

static void refused(const bytes *b, const char *says)
{
    pc_gguf *g = NULL;
    const pc_status st = pc_gguf_open_memory(&g, b->data, b->size);
    const bool good = st == PC_ERR_FORMAT && strstr(pc_error_text(), says);
    if (!good)
        printf("expected '%s', got %d: %s\n", says, (int)st, st ? pc_error_text() : "opened");
    CHECK(good);
    pc_gguf_close(g);
}

static void opens(const bytes *b)
{
    pc_gguf *g = NULL;
    const pc_status st = pc_gguf_open_memory(&g, b->data, b->size);
    if (st) printf("%s\n", pc_error_text());
    CHECK(!st);
    pc_gguf_close(g);
}

static void broken_heads(void)
{
    bytes b = {0};
    refused(&b, "does not begin with");
    memcpy(b.data, "GGUF", b.size = 4);
    refused(&b, "ends at byte 4 inside the version");
    for (uint32_t v = 0; v < 6; v++) {
        head(&b, v, 0, 0);
        if (v == 2 || v == 3)
            opens(&b);
        else
            refused(&b, "expected 2 or 3");
    }
    head(&b, 0x03000000, 0, 0);
    refused(&b, "big-endian");
    head(&b, 3, UINT64_C(1) << 62, 0);
    refused(&b, "4611686018427387904 tensors do not fit");
    head(&b, 3, 0, UINT64_MAX);
    refused(&b, "keys do not fit");
    head(&b, 3, 0, 1);
    b.size -= 3;
    refused(&b, "ends at byte");
}

static void broken_keys(void)
{
    static const char *const bad_names[] = {"A.key", "a key", "", "k\xc3\xa9", "a\x01"};
    bytes b;
    for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
        head(&b, 3, 0, 1);
        key(&b, bad_names[i], PC_GGUF_U64);
        put(&b, 1, 8);
        refused(&b, *bad_names[i] ? "lower-case ASCII" : "a key of 0 bytes");
    }
    head(&b, 3, 0, 1); // the length of a key
    put(&b, UINT64_C(1) << 63, 8);
    put(&b, 0, 8);
    refused(&b, "is 9223372036854775808 bytes long");
    head(&b, 3, 0, 1); // ... of a string
    key(&b, "s", PC_GGUF_STRING);
    put(&b, UINT64_C(1) << 63, 8);
    refused(&b, "is 9223372036854775808 bytes long");
    head(&b, 3, 0, 1); // ... of an array
    key(&b, "s", PC_GGUF_ARRAY);
    put(&b, PC_GGUF_F64, 4);
    put(&b, UINT64_C(1) << 61, 8); // times 8 is 0
    refused(&b, "items of f64 do not fit");
    head(&b, 3, 0, 1);
    key(&b, "s", PC_GGUF_ARRAY);
    put(&b, PC_GGUF_STRING, 4);
    put(&b, UINT64_C(1) << 60, 8);
    refused(&b, "strings do not fit");
    head(&b, 3, 0, 1);
    key(&b, "s", PC_GGUF_ARRAY);
    put(&b, PC_GGUF_ARRAY, 4);
    put(&b, 1, 8);
    refused(&b, "array of arrays");
    head(&b, 3, 0, 1);
    key(&b, "s", PC_GGUF_KINDS);
    put(&b, 0, 8);
    refused(&b, "expected 0 to 12");
    head(&b, 3, 0, 1);
    key(&b, "flag", PC_GGUF_BOOL);
    put(&b, 2, 1);
    refused(&b, "key 'flag': a bool is 2");
    head(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        key(&b, "twice", PC_GGUF_U8);
        put(&b, 1, 1);
    }
    refused(&b, "key 'twice' stands twice");
    static const uint64_t bad_alignments[] = {0, 3, 48, UINT64_C(1) << 31};
    for (size_t i = 0; i < 4; i++) {
        head(&b, 3, 0, 1);
        key(&b, "general.alignment", PC_GGUF_U32);
        put(&b, bad_alignments[i], 4);
        refused(&b, "power of two");
    }
    head(&b, 3, 0, 1);
    key(&b, "general.alignment", PC_GGUF_U64);
    put(&b, 32, 8);
    refused(&b, "'general.alignment' is u64");
}

// One tensor with everything right, for others to break.
static void one(bytes *b, int rank, const uint64_t *dim, uint32_t type, uint64_t offset,
                size_t room)
{
    head(b, 3, 1, 0);
    info(b, "t", rank, dim, type, offset);
    data(b, 32, room);
}

static void broken_tensors(void)
{
    bytes b;
    one(&b, DIM(4, 2), 0, 0, 32);
    opens(&b);
    one(&b, DIM(4, 2), 0, 0, 31);
    refused(&b, "32 bytes at 0, the data section has 31");
    one(&b, DIM(4, 2), 0, 4, 64);
    refused(&b, "offset 4 is no multiple of 32");
    one(&b, DIM(4, 2), 0, UINT64_MAX - 31, 64); // plus the size is 0
    refused(&b, "the data section has 64");
    one(&b, DIM(4, 0), 0, 0, 32);
    refused(&b, "dimension 1 is 0");
    one(&b, DIM(UINT64_C(1) << 33, UINT64_C(1) << 33), 0, 0, 32); // a product of 2^66
    refused(&b, "product below 2^63");
    one(&b, DIM(UINT64_C(1) << 62), 0, 0, 32); // 2^64 bytes
    refused(&b, "more bytes than 2^63");
    one(&b, DIM(UINT64_C(1) << 63), 0, 0, 32);
    refused(&b, "dimension 0 is 9223372036854775808");
    one(&b, DIM(1, 1, 1, 1, 1), 0, 0, 32);
    refused(&b, "5 dimensions");
    one(&b, DIM(4), 99, 0, 32);
    refused(&b, "type 99 is not known");
    one(&b, DIM(33), PC_Q_Q8_0, 0, 64);
    refused(&b, "Q8_0 takes multiples of 32");
    one(&b, DIM(128, 2), PC_Q_Q4_K, 0, 144);
    refused(&b, "Q4_K takes multiples of 256");
    one(&b, DIM(1), 0, 0, 100);
    b.data[24] = 70; // the name's length
    refused(&b, "a tensor's name of 70 bytes");
    one(&b, DIM(1), 0, 0, 4);
    b.data[32] = 0;
    refused(&b, "NUL byte");

    char longest[80];
    memset(longest, 'n', 64);
    for (int n = 63; n < 65; n++) {
        longest[n] = '\0';
        head(&b, 3, 1, 0);
        info(&b, longest, DIM(1), 0, 0);
        data(&b, 32, 4);
        if (n == 63)
            opens(&b);
        else
            refused(&b, "expected 1 to 63");
        longest[n] = 'n';
    }
    head(&b, 3, 2, 0);
    info(&b, "a", DIM(4), 0, 0);
    info(&b, "a", DIM(4), 0, 32);
    data(&b, 32, 64);
    refused(&b, "tensor 'a' stands twice");
    head(&b, 3, 3, 0); // out of order, and the outer ones share bytes
    info(&b, "a", DIM(16), 0, 64);
    info(&b, "b", DIM(8), 0, 0);
    info(&b, "c", DIM(10), 0, 32);
    data(&b, 32, 128);
    refused(&b, "tensors 'c' and 'a' overlap");
    head(&b, 3, 2, 0);
    info(&b, "a", DIM(8), 0, 32);
    info(&b, "b", DIM(8), 0, 0);
    data(&b, 32, 64);
    opens(&b);
    head(&b, 3, 1, 1); // another alignment
    key(&b, "general.alignment", PC_GGUF_U32);
    put(&b, 256, 4);
    info(&b, "a", DIM(8), 0, 256);
    data(&b, 256, 288);
    opens(&b);
}

// A file that promises much costs little: a table of counts that the file cannot hold is never made.
static void costs_no_memory(void)
{
    struct rusage before, after;
    bytes b;
    getrusage(RUSAGE_SELF, &before);
    for (int i = 0; i < 64; i++) {
        head(&b, 3, UINT64_C(1) << (i % 60), UINT64_C(1) << ((i * 7) % 60));
        pc_gguf *g = NULL;
        pc_gguf_open_memory(&g, b.data, b.size);
        pc_gguf_close(g);
    }
    getrusage(RUSAGE_SELF, &after);
    CHECK(after.ru_maxrss - before.ru_maxrss < 8 << 10); // KB
}

/* ---- round trip ---- */

static void round_trip(void)
{
    static const int types[] = {PC_Q_F32,  PC_Q_F16,  PC_Q_BF16, PC_Q_Q8_0, PC_Q_Q4_0,
                                PC_Q_Q4_1, PC_Q_Q5_0, PC_Q_Q5_1, PC_Q_Q4_K, PC_Q_Q6_K};
    enum { TYPES = sizeof types / sizeof *types, ROWS = 3, C = 512 };
    static float x[ROWS * C], y[ROWS * C], back[ROWS * C];
    unsigned char packed[ROWS * C * 4];
    const char *path = scratch_path("round.gguf"), *texts[] = {"a", "", "h\xc3\xa9"};
    const int32_t ints[] = {1, -2, INT32_MAX};
    const float reals[] = {0.5F, -1.25F};
    pc_gguf_writer *w = NULL;
    for (int i = 0; i < ROWS * C; i++) x[i] = (float)pc_rng_normal(&numbers, drawn++);

    CHECK(!pc_gguf_create(&w, path));
    pc_gguf_put_u32(w, "a.u32", 7);
    pc_gguf_put_f32(w, "a.f32", 0.25);
    pc_gguf_put_bool(w, "a.bool", true);
    pc_gguf_put_text(w, "a.text", "h\xc3\xa9llo");
    pc_gguf_put_texts(w, "a.texts", texts, 3);
    pc_gguf_put_i32s(w, "a.ints", ints, 3);
    pc_gguf_put_f32s(w, "a.reals", reals, 2);
    for (int i = 0; i < TYPES; i++)
        pc_gguf_declare(w, pc_quant_find(types[i])->name, pc_quant_find(types[i]), 2,
                        (const int64_t[]){ROWS, C});
    pc_gguf_declare(w, "odd", pc_quant_find(PC_Q_F32), 1, (const int64_t[]){7});
    pc_gguf_declare(w, "conv", pc_quant_find(PC_Q_F16), 4, (const int64_t[]){2, 3, 4, 5});
    CHECK(!pc_gguf_begin(w));
    for (int i = 0; i < TYPES; i++)
        for (int n = 0; n < ROWS; n++) CHECK(!pc_gguf_write(w, x + n * C, C));
    CHECK(!pc_gguf_write(w, x, 7) && !pc_gguf_write(w, x, 120));
    CHECK(!pc_file_exists(path)); // not before it is whole
    CHECK(!pc_gguf_finish(w));
    pc_gguf_writer_close(w);

    pc_gguf *g = NULL;
    pc_gguf_tensor t;
    int64_t n = 0;
    double real = 0.0;
    bool yes = false;
    char *text = NULL;
    pc_gguf_span *spans = NULL;
    CHECK(!pc_gguf_open(&g, path) && pc_gguf_version(g) == 3);
    if (!g) return;
    CHECK(pc_gguf_count(g) == TYPES + 2 && pc_gguf_key_count(g) == 7);
    CHECK(!pc_gguf_int(&n, g, "a.u32", PC_GGUF_NEEDED, 0, 9) && n == 7);
    CHECK(pc_gguf_int(&n, g, "a.u32", PC_GGUF_NEEDED, 0, 6) == PC_ERR_FORMAT);
    CHECK(!pc_gguf_real(&real, g, "a.f32", 1.0) && real == 0.25);
    CHECK(!pc_gguf_bool(&yes, g, "a.bool", false) && yes);
    CHECK(!pc_gguf_text(&text, g, "a.text") && text && !strcmp(text, "h\xc3\xa9llo"));
    free(text);
    CHECK(!pc_gguf_strings(&spans, &n, g, "a.texts") && n == 3 && spans[1].size == 0 &&
          spans[2].size == 3 && !memcmp(spans[2].text, texts[2], 3));
    free(spans);
    for (int i = 0; i < TYPES; i++) {
        const pc_quant_type *q = pc_quant_find(types[i]);
        CHECK(pc_gguf_find(&t, g, q->name) && t.rank == 2 && t.dim[0] == ROWS && t.dim[1] == C);
        CHECK(pc_quant_encode(q, packed, x, ROWS * C) < 0);
        CHECK(t.bytes == pc_quant_bytes(q, ROWS * C) && !memcmp(t.data, packed, t.bytes));
        pc_quant_decode(q, y, packed, ROWS * C);
        CHECK(!pc_gguf_floats(back, &t, 0, C) && !pc_gguf_floats(back + C, &t, C, 2 * C));
        CHECK(!memcmp(back, y, sizeof y));
    }
    CHECK(pc_gguf_find(&t, g, "conv") && t.rank == 4 && t.dim[0] == 2 && t.dim[3] == 5);
    CHECK(pc_gguf_find(&t, g, "odd") && t.numel == 7 && !memcmp(t.data, x, 28));
    pc_gguf_close(g);
}

// Numbers that a type cannot hold, names that are too long and rows that do not divide leave no file behind.
static void refusals_of_the_writer(void)
{
    const char *path = scratch_path("refused.gguf");
    static float x[32];
    pc_gguf_writer *w = NULL;
    const struct {
        int type;
        float bad;
    } cases[] = {{PC_Q_F16, 1e6F},
                 {PC_Q_Q8_0, (float)NAN},
                 {PC_Q_Q4_0, INFINITY},
                 {PC_Q_Q8_0, 1e30F},
                 {PC_Q_BF16, (float)NAN}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        x[5] = cases[i].bad;
        CHECK(!pc_gguf_create(&w, path));
        pc_gguf_declare(w, "t", pc_quant_find(cases[i].type), 1, (const int64_t[]){32});
        CHECK(!pc_gguf_begin(w));
        CHECK(pc_gguf_write(w, x, 32) == PC_ERR_NUMERIC && strstr(pc_error_text(), "tensor 't'"));
        CHECK(pc_gguf_finish(w) == PC_ERR_NUMERIC);
        pc_gguf_writer_close(w);
        CHECK(!pc_file_exists(path));
    }
    CHECK(!pc_gguf_create(&w, path));
    pc_gguf_declare(w, "t", pc_quant_find(PC_Q_Q4_K), 1, (const int64_t[]){128});
    CHECK(pc_gguf_begin(w) == PC_ERR_INPUT);
    pc_gguf_writer_close(w);
    CHECK(pc_gguf_create(&w, scratch_path("no/such/folder/x.gguf")) == PC_ERR_IO);
}

// Numbers of every size beside each other: what comes back is finite and no further off than the largest number; the
// K-quants' search meets scales that f16 cannot hold, and rows of zeros.
static void sizes_of_numbers(void)
{
    enum { N = 256 };
    static const int types[] = {PC_Q_Q8_0, PC_Q_Q5_1, PC_Q_Q5_0, PC_Q_Q4_1,
                                PC_Q_Q4_0, PC_Q_Q6_K, PC_Q_Q4_K};
    float x[N], y[N];
    unsigned char packed[4 * N];
    int wrong = 0, written = 0;
    for (int round = 0; round < 3000; round++) {
        const int span = round % 60, base = round % 37 - 30;
        float most = 0.0F;
        for (int i = 0; i < N; i++) {
            const int e = base + (int)(uniform() * (double)span);
            x[i] = i % (1 + round % 5) ? (float)ldexp(uniform() - 0.5, e > 18 ? 18 : e) : 0.0F;
            most = fmaxf(most, fabsf(x[i]));
        }
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            const pc_quant_type *q = pc_quant_find(types[t]);
            if (pc_quant_encode(q, packed, x, N) >= 0) continue;
            written++;
            pc_quant_decode(q, y, packed, N);
            // Scales below 2^-25 are zero in f16: with two levels of them that is 32 * 128 / 2^25.
            for (int i = 0; i < N; i++) wrong += !(fabsf(y[i] - x[i]) <= 0.6F * most + 1.3e-4F);
        }
    }
    CHECK(!wrong && written > 3000 * 6);
}

/* ---- flipped bytes ---- */

// Everything that a reader does with a file that opened.
static void use(const pc_gguf *g)
{
    static float room[1 << 12];
    char text[128];
    for (int64_t i = 0; i < pc_gguf_key_count(g); i++) {
        const pc_gguf_value v = pc_gguf_key_at(g, i);
        pc_gguf_value_text(&v, text, sizeof text);
    }
    for (int64_t i = 0; i < pc_gguf_count(g); i++) {
        const pc_gguf_tensor t = pc_gguf_at(g, i);
        int64_t n = t.numel < (1 << 12) ? t.numel : t.row <= (1 << 12) ? t.row : 0;
        n -= n % t.type->block;
        if (n) pc_gguf_floats(room, &t, 0, n);
        if (n) pc_gguf_floats(room, &t, t.numel / t.row * t.row - t.row, n < t.row ? n : t.row);
    }
}

static int flip(const char *path, int rounds)
{
    char *base = NULL;
    size_t size = 0;
    int opened = 0;
    if (pc_file_read(&base, &size, path, 1 << 26)) abort();
    for (int i = 0; i < rounds; i++) {
        // A copy of exactly its size, so that a sanitizer sees the first byte behind it.
        const size_t keep = i % 8 == 7 ? (size_t)(uniform() * (double)size) : size;
        unsigned char *copy = malloc(keep + 1);
        if (!copy) abort();
        unsigned char *at = copy + 1 - (keep == 0); // unaligned, too
        memcpy(at, base, keep);
        const size_t head_size = size < 4096 ? size : 4096;
        for (int k = 0; k <= i % 4 && keep; k++) {
            const double where = uniform();
            const size_t byte = (size_t)(where * (double)(i % 3 ? head_size : size)) % keep;
            at[byte] = (unsigned char)(i % 2 ? at[byte] ^ (1u << (unsigned)(k + i) % 8)
                                             : (unsigned)(256.0 * uniform()));
        }
        pc_gguf *g = NULL;
        if (!pc_gguf_open_memory(&g, at, keep)) {
            opened++;
            use(g);
            pc_tokenizer *tok = NULL;
            if (!pc_gguf_tokenizer(&tok, g)) pc_tokenizer_close(tok);
        }
        pc_gguf_close(g);
        free(copy);
    }
    free(base);
    return opened;
}

static void flipped_bytes(void)
{
    const int opened = flip(scratch_path("round.gguf"), 4000);
    printf("4000 files with flipped bytes: %d opened\n", opened);
    CHECK(opened > 400 && opened < 3600); // the flips reach what matters, and what does not
    const char *sample = shared_path("goldens/formats/sample.gguf");
    if (sample) flip(sample, 2000);
}

int main(void)
{
    scratch_open();
    broken_heads();
    broken_keys();
    broken_tensors();
    costs_no_memory();
    round_trip();
    refusals_of_the_writer();
    sizes_of_numbers();
    flipped_bytes();
    scratch_close();
    return check_report("GGUF files");
}
