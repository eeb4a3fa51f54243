/*
 * test_layout.c - how sequences become rows: positions, labels, image rows, and who sees whom, against the rule
 * written out for every pair of rows.
 */
#include <stdlib.h>
#include <string.h>

#include "model/networks/vlm.h"
#include "tests/support/check.h"

enum { IMAGE = 9 };

static pc_vlm_config config(void)
{
    pc_vlm_config c = {.vision = {.L = 1, .image_size = 8, .patch = 4, .class_token = true},
                       .decoder = {.V = 20, .T = 32},
                       .image_id = IMAGE};
    return c;
}

/* What a row is, laid out the plain way. */
typedef struct place {
    int sequence, branch; // -1: the prefix
    int64_t pos, line;    // the same, but for patches with two positions
    int image;            // number of its image, or -1
    int32_t id, label;
} place;

static int64_t expand(place *out, const pc_vlm_config *c, const pc_sequence *s, int64_t S)
{
    const int64_t rows = pc_vlm_rows_per_image(c), cls = c->keep_class;
    int64_t n = 0;
    int image = 0;
    for (int q = 0; q < S; q++) {
        int64_t prefix = 0, pos = 0; // the next position after the prefix, and here
        for (int64_t i = 0; i < s[q].length; i++) {
            int branch = -1;
            bool first = i == 0;
            if (s[q].branches > 0 && i >= s[q].prefix) {
                branch = 0;
                while (i >= s[q].branch_end[branch]) branch++;
                first = i == (branch == 0 ? s[q].prefix : s[q].branch_end[branch - 1]);
                if (first) pos = prefix;
            }
            if (!first && s[q].supervised && s[q].supervised[i]) out[n - 1].label = s[q].ids[i];
            if (s[q].ids[i] != IMAGE) {
                out[n++] = (place){q, branch, pos, pos, -1, s[q].ids[i], -1};
                pos++;
            } else if (!c->decoder.rope_2d) {
                for (int64_t k = 0; k < rows; k++, pos++)
                    out[n++] = (place){q, branch, pos, pos, image, -1, -1};
                image++;
            } else {
                if (cls) out[n++] = (place){q, branch, pos, pos, image, -1, -1};
                for (int64_t y = 0; y < 2; y++)
                    for (int64_t x = 0; x < 2; x++)
                        out[n++] = (place){q, branch, pos + cls + x, pos + cls + y, image, -1, -1};
                pos += cls + 2;
                image++;
            }
            if (branch < 0) prefix = pos;
        }
    }
    return n;
}

static bool sees(const pc_vlm_config *c, const place *p, int64_t n, int64_t j)
{
    if (p[n].sequence != p[j].sequence) return false;
    const bool both_ways = c->image_bidirectional && p[n].image >= 0 && p[n].image == p[j].image;
    if (both_ways) return true;
    if (p[j].branch >= 0 && p[j].branch != p[n].branch) return false;
    if (j > n) return false;
    return c->decoder.window == 0 || p[j].pos > p[n].pos - c->decoder.window;
}

static void compare(const pc_vlm_config *c, const pc_sequence *s, int64_t S, int64_t images)
{
    pc_arena a, dry;
    pc_vlm_batch b, d;
    place p[64];
    const int64_t rows = pc_vlm_rows_per_image(c), N = expand(p, c, s, S);
    CHECK(!pc_arena_open(&a, "batch", 1 << 16));
    pc_arena_open_dry(&dry, "batch");
    const pc_status st = pc_vlm_batch_build(&b, &a, c, s, S, images);
    CHECK(!st);
    if (st) {
        printf("%s\n", pc_error_text());
        return;
    }
    CHECK(b.N == N && b.pictures.count == images && b.mask.S == S);
    int64_t supervised = 0, image_row = 0;
    double pairs = 0.0;
    for (int64_t n = 0; n < N; n++) {
        CHECK(pc_i32(b.ids)[n] == p[n].id && pc_i32(b.pos)[n] == p[n].pos);
        CHECK(pc_i32(b.labels)[n] == p[n].label);
        CHECK(pc_present(b.pos_y) == c->decoder.rope_2d);
        if (pc_present(b.pos_y)) CHECK(pc_i32(b.pos_y)[n] == p[n].line);
        supervised += p[n].label >= 0;
        if (p[n].image >= 0) CHECK(pc_i32(b.image_rows)[image_row++] == n);
        for (int64_t j = 0; j < N; j++) {
            bool seen = j >= pc_i32(b.mask.lo)[n] && j < pc_i32(b.mask.hi)[n];
            if (pc_present(b.mask.plo)) {
                const bool prefix = j >= pc_i32(b.mask.plo)[n] && j < pc_i32(b.mask.phi)[n];
                CHECK(!(seen && prefix));
                seen = seen || prefix;
            }
            CHECK(seen == sees(c, p, n, j));
            pairs += seen;
        }
        if (pc_present(b.mask.plo) && pc_i32(b.mask.phi)[n] > pc_i32(b.mask.plo)[n])
            CHECK(pc_i32(b.mask.phi)[n] <= pc_i32(b.mask.lo)[n]);
    }
    CHECK(image_row == images * rows && supervised == b.supervised && pairs == b.mask.pairs);
    for (int64_t q = 0, n = 0; q <= S; q++) {
        while (n < N && p[n].sequence < q) n++;
        CHECK(pc_i32(b.mask.q_off)[q] == n && pc_i32(b.mask.k_off)[q] == n);
    }
    // Dry: the same sizes, nothing written.
    CHECK(!pc_vlm_batch_build(&d, &dry, c, s, S, images));
    CHECK(dry.peak == a.peak && d.N == N && d.supervised == supervised && d.mask.pairs == pairs);
    pc_arena_close(&a);
}

static const int32_t first[] = {1, IMAGE, 2, 3, 4, 5, 6, 7, 8};
static const uint8_t learn[] = {0, 0, 0, 1, 0, 1, 0, 0, 1};
static const int64_t ends[] = {5, 6, 9};
static const int32_t second[] = {1, 2, IMAGE, 3, IMAGE, 4};
static const uint8_t learn_second[] = {0, 1, 0, 1, 0, 1};

static void test_layouts(void)
{
    const uint8_t learn_branches[] = {0, 0, 0, 1, 1, 0, 0, 1, 1};
    const pc_sequence seqs[] = {
        {first, learn_branches, 9, 2, 3, ends, NULL},
        {second, learn_second, 6, 0, 0, NULL, NULL},
        {first + 2, learn, 2, 0, 0, NULL, NULL},
    };
    pc_vlm_config c = config();
    for (int both = 0; both < 2; both++)
        for (int keep = 0; keep < 2; keep++)
            for (int64_t window = 0; window < 9; window += 3) {
                c.image_bidirectional = both;
                c.keep_class = keep;
                c.decoder.window = window;
                compare(&c, seqs, 3, 3);
                compare(&c, seqs + 1, 2, 2); // no branches: no second interval
                c.decoder.rope_2d = true;
                if (window == 0) compare(&c, seqs, 3, 3);
                c.decoder.rope_2d = false;
            }
    CHECK(pc_vlm_positions(&c, second, 6, NULL) == 4 + 2 * 5);
    c.decoder.rope_2d = true;
    CHECK(pc_vlm_positions(&c, second, 6, NULL) == 4 + 2 * 3);
    c.decoder.rope_2d = false;
    c.vision.L = 0; // without a tower the image id is an id like any other
    pc_vlm_batch b;
    pc_arena a;
    CHECK(!pc_arena_open(&a, "batch", 1 << 16));
    CHECK(!pc_vlm_batch_build(&b, &a, &c, seqs + 1, 1, 0) && b.N == 6);
    CHECK(pc_i32(b.ids)[2] == IMAGE && pc_vlm_rows(&c, second, 6, NULL) == 6);
    pc_arena_close(&a);
}

static void refused(const pc_vlm_config *c, const pc_sequence *s, int64_t images,
                    const char *message)
{
    pc_arena a;
    pc_vlm_batch b;
    CHECK(!pc_arena_open(&a, "batch", 1 << 16));
    CHECK(pc_vlm_batch_build(&b, &a, c, s, 1, images) == PC_ERR_INPUT);
    if (strcmp(pc_error_text(), message)) {
        printf("FAILED '%s', expected '%s'\n", pc_error_text(), message);
        check_failures++;
    }
    pc_arena_close(&a);
}

static void test_errors(void)
{
    pc_vlm_config c = config();
    const pc_sequence ok = {second, learn_second, 6, 0, 0, NULL, NULL};
    pc_sequence s = ok;
    refused(&c, &s, 1, "2 image places in the text, 1 images");
    refused(&c, &s, 3, "2 image places in the text, 3 images");
    c.decoder.T = 11;
    refused(&c, &s, 2, "sequence 1: 12 positions; the decoder has 11 (decoder.T)");
    c.decoder.T = 12;
    c.decoder.V = 4;
    refused(&c, &s, 2, "sequence 1: token 5: id 4, vocabulary of 4");
    c = config();
    s.length = 0;
    refused(&c, &s, 0, "sequence 1: no tokens");
    const uint8_t bad_first[] = {1, 0, 0, 0, 0, 0}, bad_image[] = {0, 0, 1, 0, 0, 0};
    s = ok;
    s.supervised = bad_first;
    refused(&c, &s, 2, "sequence 1: token 0 is to be learned, but no row precedes it");
    s.supervised = bad_image;
    refused(&c, &s, 2, "sequence 1: token 2 is to be learned and stands for an image");
    const uint8_t bad_branch[] = {0, 0, 0, 0, 0, 1, 0, 0, 0};
    s = (pc_sequence){first, bad_branch, 9, 2, 3, ends, NULL};
    refused(&c, &s, 1, "sequence 1: token 5 is to be learned, but no row precedes it");
    // Branches: positions count, not rows.
    s.supervised = NULL;
    c.decoder.T = 8; // 1 + 4 rows of the prefix, 3 of the longest branch
    pc_arena a;
    pc_vlm_batch b;
    CHECK(!pc_arena_open(&a, "batch", 1 << 16));
    CHECK(!pc_vlm_batch_build(&b, &a, &c, &s, 1, 1) && b.N == 12);
    pc_arena_close(&a);
    c.decoder.T = 7;
    refused(&c, &s, 1, "sequence 1: 8 positions; the decoder has 7 (decoder.T)");
}

int main(void)
{
    test_layouts();
    test_errors();
    return check_report("layout of sequences");
}
