/*
 * test_loader.c - batch k is a function of (seed, k): whatever the number of threads, however far ahead, from
 * whichever step it starts. Epochs, weights, pixels, failures.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/data/small_set.h"

#include "model/core/file.h"
#include <unistd.h>

/* ---- the bytes of a batch ---- */

static void mix(uint64_t *h, const void *data, size_t size)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < size; i++) *h = (*h ^ p[i]) * UINT64_C(0x100000001b3);
}

static void mix_tensor(uint64_t *h, pc_tensor x)
{
    if (!pc_present(x)) return;
    assert_true(pc_is_dense(x));
    mix(h, x.dim, (size_t)x.rank * sizeof *x.dim);
    mix(h, x.data, (size_t)pc_numel(x) * pc_dtype_size(x.dtype));
}

static void mix_mask(uint64_t *h, const pc_mask *m)
{
    mix(h, &m->S, sizeof m->S);
    const pc_tensor parts[] = {m->q_off, m->k_off, m->lo, m->hi, m->plo, m->phi};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) mix_tensor(h, parts[i]);
}

static uint64_t bytes_of(const pc_batch *b)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    const int64_t counts[] = {b->step,   b->epoch,   b->micros, b->supervised,
                              b->tokens, b->samples, b->images, b->skipped};
    mix(&h, counts, sizeof counts);
    for (int64_t m = 0; m < b->micros; m++) {
        const pc_micro_batch *mb = &b->micro[m];
        mix(&h, mb->sample, (size_t)mb->samples * sizeof *mb->sample);
        mix_tensor(&h, mb->pixels);
        mix_tensor(&h, mb->vlm.pictures.pixels);
        mix_tensor(&h, mb->vlm.ids);
        mix_tensor(&h, mb->vlm.image_rows);
        mix_tensor(&h, mb->vlm.labels);
        mix_tensor(&h, mb->vlm.pos);
        mix_mask(&h, &mb->vlm.mask);
        mix_tensor(&h, mb->text.ids);
        mix_tensor(&h, mb->text.pos);
        mix_tensor(&h, mb->text.pooled);
        mix_mask(&h, &mb->text.mask);
    }
    return h;
}

enum { STEPS = 24 };

typedef struct kind {
    const char *file, *tmpl;
    bool clip, branches;
    int64_t max_turns;
} kind;

static const kind kinds[] = {
    {"captions.jsonl", "short", true, false, 0}, {"captions.jsonl", "plain", false, false, 0},
    {"talk.json", "vicuna_v1", false, false, 0}, {"talk.json", "short", false, true, 3},
    {"talk.json", "short", false, false, 2},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void run(uint64_t out[STEPS], const kind *k, int threads, int ahead, bool cache,
                int64_t first)
{
    pc_dataset d = set_data(k->file, 1.75);
    pc_model_config m = k->clip ? set_clip() : set_vlm();
    pc_loader_config c = set_config();
    c.threads = threads;
    c.ahead = ahead;
    c.cache_images = cache;
    c.branches = k->branches;
    c.max_turns = k->max_turns;
    pc_loader *l = set_loader(&d, &m, k->tmpl, &c, first);
    for (int64_t s = first; s < STEPS; s++) out[s] = bytes_of(set_next(l));
    pc_loader_close(l);
    pc_dataset_close(&d);
}

static void test_threads_change_nothing(void **state)
{
    (void)state;
    static const struct {
        int threads, ahead;
        bool cache;
    } ways[] = {{1, 0, true}, {1, 3, true}, {2, 1, true}, {3, 8, true}, {4, 2, false}};
    for (int k = 0; k < KINDS; k++) {
        uint64_t want[STEPS], got[STEPS];
        run(want, &kinds[k], 0, 0, true, 0);
        for (int s = 1; s < STEPS; s++) assert_true(want[s] != want[s - 1]);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            run(got, &kinds[k], ways[w].threads, ways[w].ahead, ways[w].cache, 0);
            assert_memory_equal(got, want, sizeof want);
        }
    }
}

static void test_resume_at_any_step(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        uint64_t want[STEPS], got[STEPS];
        run(want, &kinds[k], 2, 2, true, 0);
        for (int64_t first = 1; first < STEPS; first += 4) { // before, at and behind an epoch's end
            run(got, &kinds[k], 2, 2, true, first);
            assert_memory_equal(got + first, want + first, (size_t)(STEPS - first) * sizeof *want);
        }
    }
}

static void test_another_seed_another_order(void **state)
{
    (void)state;
    pc_dataset d = set_data("captions.jsonl", 1.0);
    pc_model_config m = set_clip();
    pc_loader_config c = set_config(), other = c;
    other.seed++;
    pc_loader *a = set_loader(&d, &m, "short", &c, 0), *b = set_loader(&d, &m, "short", &other, 0);
    assert_true(bytes_of(set_next(a)) != bytes_of(set_next(b)));
    pc_loader_close(a);
    pc_loader_close(b);
    pc_dataset_close(&d);
}

/* Closing while workers are busy, or before anything was taken. */
static void test_early_close(void **state)
{
    (void)state;
    pc_dataset d = set_data("talk.json", 1.0);
    pc_model_config m = set_vlm();
    pc_loader_config c = set_config();
    c.threads = 3;
    c.ahead = 6;
    for (int taken = 0; taken < 3; taken++) {
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        for (int i = 0; i < taken; i++) set_next(l);
        pc_loader_close(l);
    }
    pc_loader_close(NULL);
    pc_dataset_close(&d);
}

/* ---- epochs ---- */

static void count_epoch(int64_t *seen, pc_loader *l, int64_t *order)
{
    const int64_t steps = pc_loader_steps_per_epoch(l);
    int64_t n = 0;
    for (int64_t s = 0; s < steps; s++) {
        const pc_batch *b = set_next(l);
        for (int64_t m = 0; m < b->micros; m++)
            for (int64_t i = 0; i < b->micro[m].samples; i++) {
                seen[b->micro[m].sample[i]]++;
                if (order) order[n++] = b->micro[m].sample[i];
            }
    }
}

static void test_an_epoch_is_a_permutation(void **state)
{
    (void)state;
    pc_dataset d = set_data("captions.jsonl", 1.0);
    pc_model_config m = set_clip();
    pc_loader_config c = set_config();
    pc_loader *l = set_loader(&d, &m, "short", &c, 0);
    int64_t order[4][SET_IMAGES];
    assert_int_equal(pc_loader_steps_per_epoch(l), SET_IMAGES / 4);
    for (int e = 0; e < 4; e++) {
        int64_t seen[SET_IMAGES] = {0};
        count_epoch(seen, l, order[e]);
        for (int i = 0; i < SET_IMAGES; i++) assert_int_equal(seen[i], 1);
        for (int o = 0; o < e; o++) assert_memory_not_equal(order[e], order[o], sizeof order[e]);
    }
    pc_loader_close(l);

    // 12 samples in batches of 5: two a batch short, others each time, so that all come within some epochs.
    c.batch = c.micro = 5;
    l = set_loader(&d, &m, "short", &c, 0);
    int64_t seen[SET_IMAGES] = {0};
    assert_int_equal(pc_loader_steps_per_epoch(l), 2);
    for (int e = 0; e < 12; e++) count_epoch(seen, l, NULL);
    for (int i = 0; i < SET_IMAGES; i++) assert_in_range(seen[i], 6, 12);
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* The order of the files, every sample once, the rest in a smaller batch. */
static void test_without_shuffle(void **state)
{
    (void)state;
    pc_dataset d = set_data("captions.jsonl", 1.0);
    pc_model_config m = set_clip();
    pc_loader_config c = set_config();
    c.shuffle = false;
    c.batch = 10;
    c.micro = 5;
    c.threads = 2;
    pc_loader *l = set_loader(&d, &m, "short", &c, 0);
    assert_int_equal(pc_loader_steps_per_epoch(l), 2);
    for (int e = 0; e < 2; e++) {
        const pc_batch *b = set_next(l);
        assert_int_equal(b->samples, 10);
        assert_int_equal(b->micros, 2);
        for (int64_t i = 0; i < 5; i++) assert_int_equal(b->micro[1].sample[i], 5 + i);
        b = set_next(l);
        assert_int_equal(b->samples, 2);
        assert_int_equal(b->micros, 1); // no empty ones
        assert_int_equal(b->micro[0].samples, 2);
        assert_int_equal(b->micro[0].pixels.dim[0], 2);
        assert_int_equal(b->micro[0].sample[0], 10);
        assert_int_equal(b->epoch, e);
    }
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* Two sources, weights 2.5 and 0.25: 30 and 3 visits an epoch; the fraction changes, evenly. */
static void test_weights(void **state)
{
    (void)state;
    const pc_source s[] = {{scratch_path("captions.jsonl"), NULL, 2.5},
                           {scratch_path("captions.jsonl"), NULL, 0.25}};
    pc_dataset d;
    if (pc_dataset_open(&d, s, 2, PC_BAD_ERROR)) fail_msg("%s", pc_error_text());
    pc_model_config m = set_clip();
    pc_loader_config c = set_config();
    c.batch = c.micro = 3;
    pc_loader *l = set_loader(&d, &m, "short", &c, 0);
    assert_int_equal(pc_loader_steps_per_epoch(l), 11);
    int64_t all[2 * SET_IMAGES] = {0};
    for (int e = 0; e < 40; e++) {
        int64_t seen[2 * SET_IMAGES] = {0}, second = 0;
        count_epoch(seen, l, NULL);
        for (int i = 0; i < SET_IMAGES; i++) {
            assert_in_range(seen[i], 2, 3);
            assert_in_range(seen[SET_IMAGES + i], 0, 1);
            second += seen[SET_IMAGES + i];
        }
        assert_int_equal(second, 3);
        for (int i = 0; i < 2 * SET_IMAGES; i++) all[i] += seen[i];
    }
    for (int i = 0; i < SET_IMAGES; i++) { // expected 100 and 10, spread 3.2 and 2.7
        assert_in_range(all[i], 88, 112);
        assert_in_range(all[SET_IMAGES + i], 1, 21);
    }
    pc_loader_close(l);
    pc_dataset_close(&d);
}

/* ---- pixels ---- */

static void test_pixels_are_those_of_inference(void **state)
{
    (void)state;
    pc_dataset d = set_data("captions.jsonl", 1.0);
    pc_model_config m = set_clip();
    pc_loader_config c = set_config();
    const pc_image_config ic = pc_image_config_default(8);
    for (int cache = 0; cache < 2; cache++) {
        c.cache_images = cache;
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        for (int s = 0; s < 9; s++) { // three epochs: decoded, then from the cache
            const pc_batch *b = set_next(l);
            for (int64_t k = 0; k < b->micros; k++)
                for (int64_t i = 0; i < b->micro[k].samples; i++) {
                    float want[3 * 8 * 8];
                    pc_image im;
                    assert_int_equal(pc_image_open(&im, d.samples[b->micro[k].sample[i]].image,
                                                   false),
                                     0);
                    assert_int_equal(pc_image_preprocess(want, &im, &ic), 0);
                    pc_image_close(&im);
                    assert_memory_equal(pc_f32(b->micro[k].pixels, i), want, sizeof want);
                }
        }
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

/* ---- failures ---- */

/* One image of the captions is cut short behind the reader's back. */
static pc_dataset data_with_bad_image(int bad)
{
    char text[4096] = "", name[32];
    for (int i = 0; i < SET_IMAGES; i++)
        sprintf(text + strlen(text), "{\"image\": \"img/%s%d.png\", \"captions\": [\"a cat\"]}\n",
                i == bad ? "bad" : "", i);
    snprintf(name, sizeof name, "img/bad%d.png", bad);
    set_write_file("bad.jsonl", text);
    set_write_file(name, "\x89PNG\r\n\x1a\n, and no more");
    return set_data("bad.jsonl", 1.0);
}

static void test_bad_image_is_an_error_of_its_batch(void **state)
{
    (void)state;
    pc_dataset d = data_with_bad_image(6);
    pc_model_config m = set_clip();
    for (int threads = 0; threads < 3; threads++) {
        pc_loader_config c = set_config();
        c.shuffle = false;
        c.threads = threads;
        pc_loader *l = set_loader(&d, &m, "short", &c, 0);
        pc_batch *b;
        assert_int_equal(pc_loader_next(l, &b), PC_OK); // samples 0 to 3
        for (int again = 0; again < 2; again++) {
            assert_true(pc_loader_next(l, &b) != PC_OK);
            assert_null(b);
            assert_non_null(strstr(pc_error_text(), "batch 1"));
            assert_non_null(strstr(pc_error_text(), "bad.jsonl:7"));
            assert_non_null(strstr(pc_error_text(), "img/bad6.png"));
        }
        pc_loader_close(l);
    }
    pc_dataset_close(&d);
}

static void test_bad_image_is_skipped_and_counted(void **state)
{
    (void)state;
    pc_dataset d = data_with_bad_image(6);
    pc_model_config m = set_vlm();
    pc_loader_config c = set_config();
    c.shuffle = false;
    c.on_bad_image = PC_BAD_SKIP;
    c.threads = 2;
    pc_loader *l = set_loader(&d, &m, "plain", &c, 0);
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < 3; s++) {
            const pc_batch *b = set_next(l);
            assert_int_equal(b->skipped, s == 1);
            assert_int_equal(b->samples, s == 1 ? 3 : 4);
            assert_int_equal(b->images, b->samples);
            int64_t supervised = 0;
            for (int64_t k = 0; k < b->micros; k++) {
                supervised += b->micro[k].vlm.supervised;
                assert_int_equal(b->micro[k].vlm.pictures.count, b->micro[k].samples);
                for (int64_t i = 0; i < b->micro[k].samples; i++)
                    assert_int_not_equal(b->micro[k].sample[i], 6);
            }
            assert_int_equal(b->supervised, supervised);
        }
    pc_loader_close(l);

    // When a whole batch is gone that is an error; an empty micro-batch only vanishes.
    c.batch = c.micro = 1;
    l = set_loader(&d, &m, "plain", &c, 6);
    pc_batch *b;
    assert_int_equal(pc_loader_next(l, &b), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "none of its 1 images"));
    pc_loader_close(l);
    c.batch = 2;
    l = set_loader(&d, &m, "plain", &c, 3);
    b = set_next(l);
    assert_int_equal(b->micros, 1);
    assert_int_equal(b->micro[0].sample[0], 7);
    pc_loader_close(l);
    pc_dataset_close(&d);
}

static void refused(const pc_dataset *d, const pc_model_config *m, const char *tmpl,
                    const pc_loader_config *c, int64_t size, const char *word)
{
    const pc_image_config im = pc_image_config_default(size);
    pc_loader *l = NULL;
    assert_int_equal(pc_loader_open(&l, d, m, set_tok, pc_template_find(tmpl), &im, c, 0),
                     PC_ERR_INPUT);
    assert_null(l);
    if (!strstr(pc_error_text(), word)) fail_msg("'%s' says nothing of %s", pc_error_text(), word);
}

static void test_settings_refused(void **state)
{
    (void)state;
    pc_dataset captions = set_data("captions.jsonl", 1.0), talk = set_data("talk.json", 1.0);
    pc_model_config clip = set_clip(), vlm = set_vlm(), m;
    pc_loader_config c;
    c = set_config(), c.micro = 3;
    refused(&captions, &clip, "short", &c, 8, "batch of 4 in micro-batches of 3");
    c = set_config(), c.batch = c.micro = 13;
    refused(&captions, &clip, "short", &c, 8, "an epoch has 12 samples, a batch 13");
    c = set_config(), c.threads = -1;
    refused(&captions, &clip, "short", &c, 8, "-1 loader threads");
    c = set_config();
    refused(&captions, &clip, "short", &c, 16, "16 pixels");
    refused(&talk, &clip, "short", &c, 8, "captions");
    m = clip, m.clip.text.V = 100;
    refused(&captions, &m, "short", &c, 8, "the model's table 100");
    m = vlm, m.vlm.vision.L = 0;
    refused(&talk, &m, "short", &c, 8, "no vision tower");
    c.max_tokens = 257;
    refused(&talk, &vlm, "short", &c, 8, "256 positions");
    c.max_tokens = 6; // the image takes 4, a turn needs more than 2
    refused(&talk, &vlm, "short", &c, 8, "talk.json row 0: no supervised token");
    c = set_config(), c.branches = true;
    refused(&talk, &vlm, "plain", &c, 8, "branches");
    pc_dataset_close(&captions);
    pc_dataset_close(&talk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_resume_at_any_step),
        cmocka_unit_test(test_another_seed_another_order),
        cmocka_unit_test(test_early_close),
        cmocka_unit_test(test_an_epoch_is_a_permutation),
        cmocka_unit_test(test_without_shuffle),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_pixels_are_those_of_inference),
        cmocka_unit_test(test_bad_image_is_an_error_of_its_batch),
        cmocka_unit_test(test_bad_image_is_skipped_and_counted),
        cmocka_unit_test(test_settings_refused),
    };
    return cmocka_run_group_tests(tests, set_open, set_close);
}
