/*
 * test_loader_shapes.c - images of many shapes: rows, pixels and geometry of every micro-batch are those of the image by
 * itself; threads change nothing; what the plan is told bounds every micro-batch; bad images go or stop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/data/small_set.h"

#include "data/images/visual.h"
#include "model/networks/pack.h"

enum { SHAPES = SET_IMAGES };
static const int sizes[SHAPES][2] = {{8, 8},  {8, 30}, {31, 9}, {50, 50}, {24, 24}, {1, 64},
                                     {64, 1}, {17, 5}, {90, 7}, {16, 24}, {24, 16}, {40, 40}};

static int open_shapes(void **state)
{
    if (set_open(state)) return 1;
    for (int i = 0; i < SHAPES; i++) { // over the squares of the set
        char name[32], head[32];
        static uint8_t file[64 + 3 * 100 * 100];
        const int h = sizes[i][0], w = sizes[i][1];
        const int n = snprintf(head, sizeof head, "P6\n%d %d\n255\n", w, h);
        memcpy(file, head, (size_t)n);
        for (int k = 0; k < 3 * w * h; k++) file[n + k] = (uint8_t)(k * (i + 3) + 17 * i);
        snprintf(name, sizeof name, "img/%d.png", i);
        scratch_write(name, file, (size_t)(n + 3 * w * h));
    }
    return 0;
}

static pc_model_config tiles(void)
{
    pc_model_config c = set_vlm();
    c.vlm.visual = PC_VISUAL_TILES;
    c.vlm.max_tiles = 2;
    c.vlm.pinpoints = (pc_pinpoints){4, {{8, 16}, {16, 8}, {16, 16}, {24, 24}}};
    c.vlm.projector = (pc_projector_config){.depth = 1, .in = 8, .out = 8};
    return c;
}

static pc_model_config grids(void)
{
    pc_model_config c = set_vlm();
    c.vlm.visual = PC_VISUAL_GRID;
    c.vlm.merge = 2;
    c.vlm.vision.frames = 2;
    c.vlm.decoder.mrope[0] = 2;
    c.vlm.decoder.mrope[1] = c.vlm.decoder.mrope[2] = 1;
    return c;
}

static pc_loader *open_loader(const pc_dataset *d, const pc_model_config *m,
                              const pc_loader_config *c)
{
    const pc_image_config im = pc_visual_default(&m->vlm);
    pc_loader *l = NULL;
    if (pc_loader_open(&l, d, m, set_tok, pc_template_find("short"), &im, c, 0))
        fail_msg("%s", pc_error_text());
    return l;
}

static bool same(const float *a, const float *b, int64_t n)
{
    return !memcmp(a, b, (size_t)n * sizeof *a);
}

/* Every image of the micro-batch against the same image prepared alone. */
static void check_micro(const pc_micro_batch *mb, const pc_dataset *d, const pc_model_config *m)
{
    const pc_image_config im = pc_visual_default(&m->vlm);
    const pc_pictures *p = &mb->vlm.pictures;
    const float *at = m->vlm.visual == PC_VISUAL_GRID ? p->patches.data : p->pixels.data;
    int64_t rows = 0, numbers = 0;
    assert_int_equal(p->count, mb->samples);
    for (int64_t i = 0; i < p->count; i++) {
        const char *path = d->samples[mb->sample[i]].image;
        pc_visual v;
        assert_int_equal(pc_visual_measure(&v, &im, &m->vlm, &path, 1, 1), PC_OK);
        assert_int_equal(pc_visual_load(&v, &im, &path, NULL), PC_OK);
        assert_memory_equal(&v.geometry[0], &p->geometry[i], sizeof *v.geometry);
        const int64_t n = pc_visual_numbers(&v.shapes[0]);
        assert_true(same(at + numbers, v.pixels, n));
        for (int64_t r = 0; r < v.geometry[0].rows; r++) {
            const int32_t row = pc_i32(mb->vlm.image_rows)[rows + r];
            assert_true(row >= 0 && row < mb->vlm.N && pc_i32(mb->vlm.ids)[row] == -1);
        }
        rows += v.geometry[0].rows;
        numbers += n;
        pc_visual_close(&v);
    }
    assert_int_equal(mb->vlm.image_rows.dim[0], rows);
    int64_t image_rows = 0;
    for (int64_t n = 0; n < mb->vlm.N; n++) image_rows += pc_i32(mb->vlm.ids)[n] < 0;
    assert_int_equal(image_rows, rows);
}

typedef struct totals {
    int64_t rows, eyes, features, grid, small;
} totals;

static totals of_images(const pc_image_geometry *g, int64_t n, const pc_vlm_config *c)
{
    totals t = {0};
    for (int64_t i = 0; i < n; i++) {
        int64_t grid = 0, small = 0;
        if (c->visual == PC_VISUAL_TILES) pc_pack_shrunk(&grid, &small, &g[i], c);
        t.eyes += g[i].crops + g[i].t * g[i].h * g[i].w;
        t.features += g[i].rows;
        t.grid += grid;
        t.small += small;
    }
    return t;
}

static void run(pc_model_config m, bool branches)
{
    pc_dataset d = set_data("talk.json", 1.0);
    pc_loader_config c = set_config();
    c.branches = branches;
    pc_loader *l = open_loader(&d, &m, &c);
    c.threads = 3;
    pc_loader *other = open_loader(&d, &m, &c);
    int64_t rows, images, supervised, listed;
    pc_loader_worst(l, &rows, &images, &supervised);
    const pc_image_geometry *worst = pc_loader_worst_images(l, &listed);
    assert_true(worst && listed >= images && images == c.micro);
    const totals most = of_images(worst, listed, &m.vlm);
    for (int s = 0; s < 9; s++) { // three epochs
        const pc_batch *b = set_next(l), *o = set_next(other);
        for (int64_t k = 0; k < b->micros; k++) {
            const pc_vlm_batch *x = &b->micro[k].vlm, *y = &o->micro[k].vlm;
            check_micro(&b->micro[k], &d, &m);
            assert_int_equal(x->N, y->N);
            assert_memory_equal(x->pos.data, y->pos.data, (size_t)x->N * sizeof(int32_t));
            const pc_tensor p =
                pc_present(x->pictures.pixels) ? x->pictures.pixels : x->pictures.patches;
            const pc_tensor q =
                pc_present(y->pictures.pixels) ? y->pictures.pixels : y->pictures.patches;
            assert_true(pc_same_shape(p, q) && same(p.data, q.data, pc_numel(p)));
            const totals t = of_images(x->pictures.geometry, x->pictures.count, &m.vlm);
            assert_true(x->N <= rows && t.eyes <= most.eyes && t.features <= most.features);
            assert_true(t.grid <= most.grid && t.small <= most.small);
            assert_true(pc_numel(p) <= pc_loader_worst_numbers(l));
        }
    }
    pc_loader_close(l);
    pc_loader_close(other);
    pc_dataset_close(&d);
}

static void test_tiles(void **state)
{
    (void)state;
    run(tiles(), false);
    run(tiles(), true);
}

static void test_grids(void **state)
{
    (void)state;
    run(grids(), false);
    run(grids(), true);
}

/* An image of no known kind, one whose pixels end early, and one whose shape is refused. */
static void test_bad_images(void **state)
{
    (void)state;
    pc_model_config m = grids();
    pc_loader_config c = set_config();
    scratch_write("img/2.png", "nothing", 7);
    scratch_write("img/3.png", "P6\n9 9\n255\nabc", 14);
    scratch_write("img/4.png", "P6\n900 1\n255\n", 13);
    pc_dataset d = set_data("talk.json", 1.0);
    const pc_image_config im = pc_visual_default(&m.vlm);
    pc_loader *l = NULL;
    assert_int_equal(pc_loader_open(&l, &d, &m, set_tok, pc_template_find("short"), &im, &c, 0),
                     PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "row 2"));
    assert_non_null(strstr(pc_error_text(), "img/2.png"));
    c.on_bad_image = PC_BAD_SKIP;
    l = open_loader(&d, &m, &c);
    assert_int_equal(pc_loader_skipped(l), 2); // the third is found when it is decoded
    int64_t skipped = 0;
    for (int s = 0; s < 2; s++) {
        const pc_batch *b = set_next(l);
        skipped += b->skipped;
        for (int64_t k = 0; k < b->micros; k++) check_micro(&b->micro[k], &d, &m);
    }
    assert_true(skipped <= 1);
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* Settings that do not suit the eyes are refused by what differs. */
static void test_settings(void **state)
{
    (void)state;
    const pc_model_config t = tiles(), g = grids();
    pc_image_config im = pc_visual_default(&t.vlm);
    assert_int_equal(pc_visual_check(&im, &t.vlm), PC_OK);
    assert_int_equal(pc_visual_check(&im, &g.vlm), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "patches"));
    im.pinpoints.hw[1][0] = 32;
    assert_int_equal(pc_visual_check(&im, &t.vlm), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "resolutions"));
    im = pc_visual_default(&g.vlm);
    im.patch = 7;
    assert_int_equal(pc_visual_check(&im, &g.vlm), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "patch"));
    im = pc_image_config_default(8); // whole images are images of one tile
    assert_int_equal(pc_visual_check(&im, &t.vlm), PC_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiles), cmocka_unit_test(test_grids), cmocka_unit_test(test_settings),
        cmocka_unit_test(test_bad_images), // last: it breaks files
    };
    return cmocka_run_group_tests(tests, open_shapes, set_close);
}
