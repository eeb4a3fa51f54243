/*
 * test_prepared.c - settings of images that become more than one square: ours, and as published directories say
 * them, with what they leave out; refusals; and what no published set shows: pixels put together by hand.
 */
#include "data/images/decode.h"
#include "data/images/prepared.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- settings ---- */

static const char *const OURS[] = {
    "{\"size\":32,\"kind\":\"tiles\",\"pinpoints\":[[32,64],[64,32]],\"several_whole\":true}",
    "{\"kind\":\"patches\",\"patch\":14,\"temporal\":2,\"merge\":2,\"min_pixels\":3136,"
    "\"max_pixels\":1003520}",
    "{\"size\":32,\"kind\":\"hybrid\",\"min_size\":4,\"truncate\":true,\"high\":{\"size\":64,"
    "\"filter\":\"bicubic\",\"mean\":[0.5,0.5,0.5],\"std\":[0.25,0.5,0.5],\"fill\":[1,2,3],"
    "\"float_low\":true}}",
    "{\"size\":32,\"fit\":\"longest\",\"min_size\":14,\"fill\":[127,127,127],\"drop_alpha\":true}",
};

static void test_ours(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++) {
        pc_image_config c, back;
        json_t *json = json_loads(OURS[i], 0, NULL);
        if (pc_image_config_from_json(&c, json)) fail_msg("%s: %s", OURS[i], pc_error_text());
        json_t *ours = pc_image_config_to_json(&c);
        if (pc_image_config_from_json(&back, ours)) fail_msg("%s: %s", OURS[i], pc_error_text());
        json_t *again = pc_image_config_to_json(&back);
        assert_true(json_equal(ours, again));
        const char *key;
        json_t *v;
        json_object_foreach(json, key, v) assert_true(json_equal(v, json_object_get(ours, key)));
        json_decref(json);
        json_decref(ours);
        json_decref(again);
    }
}

static void test_ours_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"size\":32,\"kind\":\"tile\"}", "'kind' is 'tile', expected 'tiles'"},
        {"{\"size\":32,\"kind\":\"tiles\"}", "0 resolutions"},
        {"{\"size\":32,\"kind\":\"tiles\",\"pinpoints\":[]}", "1 to 64"},
        {"{\"size\":32,\"kind\":\"tiles\",\"pinpoints\":[[32]]}", "entry 0"},
        {"{\"size\":32,\"kind\":\"tiles\",\"pinpoints\":[[32,64],[33,64]]}",
         "resolution 1 of the tiles is 33 x 64, expected multiples"},
        {"{\"size\":32,\"kind\":\"tiles\",\"pinpoints\":[[16384,16384]]}", "above"},
        {"{\"size\":32,\"kind\":\"tiles\",\"pinpoints\":[[0,32]]}", "is 0"},
        {"{\"kind\":\"patches\",\"patch\":14}", "need 'patch'"},
        {"{\"kind\":\"patches\",\"patch\":14,\"temporal\":2,\"merge\":2,\"min_pixels\":9,"
         "\"max_pixels\":8}",
         "above 'max_pixels'"},
        {"{\"kind\":\"patches\",\"patch\":99999}", "'patch' is 99999"},
        {"{\"size\":32,\"kind\":\"hybrid\"}", "standard deviation"},
        {"{\"size\":32,\"kind\":\"hybrid\",\"high\":{\"std\":[1,1,1]}}", "no 'size' in 'high'"},
        {"{\"size\":32,\"kind\":\"hybrid\",\"high\":{\"sise\":1}}", "did you mean 'size'"},
        {"{\"size\":32,\"fill\":[1,2,999]}", "0 to 255"},
        {"{\"kind\":\"hybrid\",\"high\":3}", "not an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pc_image_config c;
        json_t *json = json_loads(cases[i].json, 0, NULL);
        assert_non_null(json);
        assert_int_equal(pc_image_config_from_json(&c, json), PC_ERR_FORMAT);
        if (!strstr(pc_error_text(), cases[i].message))
            fail_msg("%s says '%s'", cases[i].json, pc_error_text());
        json_decref(json);
    }
}

/* ---- as published ---- */

typedef struct published {
    const char *preprocessor, *processor, *config; // NULL: no such file
    pc_image_kind kind;
    pc_fit fit;
    int64_t size, other; // other: count of resolutions, max_pixels, the large square
    double mean0;
} published;

#define CLIP_MEAN 0.48145466
static const published PUBLISHED[] = {
    // Defaults of the classes.
    {"{}", NULL, NULL, PC_IMAGE_SQUARE, PC_FIT_CROP, 224, 0, CLIP_MEAN},
    {"{\"feature_extractor_type\":\"CLIPFeatureExtractor\",\"size\":336,\"crop_size\":336}", NULL,
     NULL, PC_IMAGE_SQUARE, PC_FIT_CROP, 336, 0, CLIP_MEAN},
    {"{\"image_processor_type\":\"SiglipImageProcessorFast\"}", NULL, NULL, PC_IMAGE_SQUARE,
     PC_FIT_SQUASH, 224, 0, 0.5},
    {"{\"size\":{\"height\":384,\"width\":384}}", NULL, "{\"model_type\":\"siglip\"}",
     PC_IMAGE_SQUARE, PC_FIT_SQUASH, 384, 0, 0.5},
    {"{\"image_processor_type\":\"LlavaImageProcessor\",\"do_pad\":true,\"size\":{\"shortest_"
     "edge\":"
     "336},\"crop_size\":{\"height\":336,\"width\":336}}",
     NULL, NULL, PC_IMAGE_SQUARE, PC_FIT_PAD, 336, 0, CLIP_MEAN},
    {"{\"image_processor_type\":\"LlavaNextImageProcessor\",\"size\":{\"shortest_edge\":336},"
     "\"crop_size\":{\"height\":336,\"width\":336}}",
     NULL, NULL, PC_IMAGE_TILES, PC_FIT_SQUASH, 336, 5, CLIP_MEAN},
    {"{\"image_processor_type\":\"LlavaOnevisionImageProcessor\"}", NULL, NULL, PC_IMAGE_TILES,
     PC_FIT_SQUASH, 384, 36, CLIP_MEAN},
    {"{\"image_processor_type\":\"Qwen2VLImageProcessor\"}", NULL, NULL, PC_IMAGE_PATCHES,
     PC_FIT_SQUASH, 0, 28 * 28 * 1280, CLIP_MEAN},
    {"{\"image_processor_type\":\"DeepseekVLImageProcessor\"}", NULL, NULL, PC_IMAGE_SQUARE,
     PC_FIT_LONGEST, 384, 0, CLIP_MEAN},
    {"{\"image_processor_type\":\"DeepseekVLHybridImageProcessor\"}", NULL, NULL, PC_IMAGE_HYBRID,
     PC_FIT_LONGEST, 384, 1024, CLIP_MEAN},
    // Older and newer ways to say the area of Qwen2-VL.
    {"{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"min_pixels\":3136,\"max_pixels\":"
     "12845056}",
     NULL, NULL, PC_IMAGE_PATCHES, PC_FIT_SQUASH, 0, 12845056, CLIP_MEAN},
    {"{\"image_processor_type\":\"Qwen2VLImageProcessorFast\",\"size\":{\"shortest_edge\":3136,"
     "\"longest_edge\":401408}}",
     NULL, NULL, PC_IMAGE_PATCHES, PC_FIT_SQUASH, 0, 401408, CLIP_MEAN},
    {"{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"size\":{\"min_pixels\":3136,"
     "\"max_pixels\":501760}}",
     NULL, NULL, PC_IMAGE_PATCHES, PC_FIT_SQUASH, 0, 501760, CLIP_MEAN},
    // processor_config.json of newer files comes first.
    {"{\"size\":224}",
     "{\"image_processor\":{\"image_processor_type\":\"SiglipImageProcessor\",\"size\":{\"height\":"
     "96,\"width\":96}}}",
     NULL, PC_IMAGE_SQUARE, PC_FIT_SQUASH, 96, 0, 0.5},
    // The first Qwen-VL says it in config.json alone.
    {NULL, NULL, "{\"model_type\":\"qwen\",\"visual\":{\"image_size\":448}}", PC_IMAGE_SQUARE,
     PC_FIT_SQUASH, 448, 0, CLIP_MEAN},
    // The original LLaVA: (width, height).
    {"{\"size\":336,\"crop_size\":336}", NULL, "{\"image_aspect_ratio\":\"pad\"}", PC_IMAGE_SQUARE,
     PC_FIT_PAD, 336, 0, CLIP_MEAN},
    {"{\"size\":336,\"crop_size\":336}", NULL,
     "{\"image_aspect_ratio\":\"anyres\",\"image_grid_pinpoints\":[[336,672],[672,336]]}",
     PC_IMAGE_TILES, PC_FIT_SQUASH, 336, 2, CLIP_MEAN},
    // The original DeepSeek-VL, small and hybrid.
    {"{\"image_processor_type\":\"VLMImageProcessor\",\"image_size\":384,\"min_size\":14,"
     "\"image_mean\":[0.5,0.5,0.5],\"image_std\":[0.5,0.5,0.5]}",
     NULL, "{\"vision_config\":{\"params\":{\"image_size\":384}}}", PC_IMAGE_SQUARE, PC_FIT_LONGEST,
     384, 0, 0.5},
    {"{\"image_processor_type\":\"VLMImageProcessor\",\"image_size\":1024,\"do_normalize\":false,"
     "\"image_mean\":[0.48145466,0.4578275,0.40821073]}",
     NULL,
     "{\"vision_config\":{\"params\":{\"high_res_cfg\":{\"image_size\":1024,\"pixel_mean\":"
     "[0.48145466,0.4578275,0.40821073]},\"low_res_cfg\":{\"image_size\":384}}}}",
     PC_IMAGE_HYBRID, PC_FIT_LONGEST, 384, 1024, 0.5},
};

static void test_published(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof PUBLISHED / sizeof *PUBLISHED; i++) {
        const published *p = &PUBLISHED[i];
        json_t *a = p->preprocessor ? json_loads(p->preprocessor, 0, NULL) : NULL,
               *b = p->processor ? json_loads(p->processor, 0, NULL) : NULL,
               *c = p->config ? json_loads(p->config, 0, NULL) : NULL;
        pc_image_config got;
        bool found = false;
        if (pc_image_config_from_files(&got, &found, a, b, c))
            fail_msg("case %zu: %s", i, pc_error_text());
        assert_true(found);
        const int64_t other = got.kind == PC_IMAGE_TILES     ? got.pinpoints.count
                              : got.kind == PC_IMAGE_PATCHES ? got.max_pixels
                                                             : got.high.size;
        if (got.kind != p->kind || got.fit != p->fit || got.size != p->size || other != p->other ||
            got.mean[0] != p->mean0)
            fail_msg("case %zu: kind %d, fit %d, size %lld, %lld, mean %g", i, (int)got.kind,
                     (int)got.fit, (long long)got.size, (long long)other, got.mean[0]);
        if (i == 16) assert_int_equal(got.pinpoints.hw[0][0], 672); // turned round
        json_decref(a);
        json_decref(b);
        json_decref(c);
    }
    pc_image_config none;
    bool found = true;
    assert_int_equal(pc_image_config_from_files(&none, &found, NULL, NULL, NULL), PC_OK);
    assert_false(found);
}

static void test_published_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"image_processor_type\":\"SiglipImagProcessor\"}", "nearest: 'SiglipImageProcessor'"},
        {"{\"image_processor_type\":\"FuyuImageProcessor\"}", "whose steps are not known"},
        {"{\"do_resize\":false}", "do_resize"},
        {"{\"size\":{\"longest_edge\":3}}", "neither shortest_edge"},
        {"{\"size\":{\"height\":3,\"width\":4}}", "only squares"},
        {"{\"size\":{\"shortest_edge\":256}}", "without a crop"},
        {"{\"resample\":0}", "'resample' is 0"},
        {"{\"rescale_factor\":0.5}", "1/255"},
        {"{\"image_processor_type\":\"LlavaNextImageProcessor\",\"image_grid_pinpoints\":[[7,7]]}",
         "multiples"},
        {"{\"image_processor_type\":\"DeepseekVLImageProcessor\",\"do_pad\":false}", "do_pad"},
        {"[]", "not an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pc_image_config c;
        json_t *json = json_loads(cases[i].json, 0, NULL);
        assert_int_equal(pc_image_config_from_hf(&c, json), PC_ERR_FORMAT);
        if (!strstr(pc_error_text(), cases[i].message))
            fail_msg("%s says '%s'", cases[i].json, pc_error_text());
        json_decref(json);
    }
}

/* ---- pixels ---- */

static pc_image_config plain(const char *json)
{
    pc_image_config c;
    json_t *j = json_loads(json, 0, NULL);
    if (pc_image_config_from_json(&c, j)) fail_msg("%s", pc_error_text());
    json_decref(j);
    return c;
}

// A picture whose red is its column and green its row.
static pc_image picture(uint8_t *rgb, int64_t width, int64_t height)
{
    for (int64_t i = 0; i < width * height; i++) {
        rgb[3 * i] = (uint8_t)(i % width);
        rgb[3 * i + 1] = (uint8_t)(i / width);
        rgb[3 * i + 2] = 200;
    }
    return (pc_image){rgb, width, height};
}

// A picture of exactly a resolution's size: tiles are its parts, bit for bit.
static void test_tiles(void **state)
{
    (void)state;
    uint8_t rgb[3 * 8 * 16];
    const pc_image im = picture(rgb, 16, 8);
    const pc_image_config c =
        plain("{\"size\":8,\"kind\":\"tiles\",\"pinpoints\":[[8,16],[16,8]],\"mean\":[0,0,0],"
              "\"std\":[1,1,1],\"several_whole\":true}");
    pc_prepared p;
    assert_int_equal(pc_image_prepare(&p, &im, &c, 1), PC_OK);
    assert_int_equal(p.shape.rows, 3);
    for (int64_t t = 0; t < 2; t++)
        for (int64_t y = 0; y < 8; y++)
            for (int64_t x = 0; x < 8; x++) {
                const float *crop = p.pixels + (t + 1) * p.shape.row + y * 8 + x;
                assert_true(crop[0] == (float)((double)(x + 8 * t) / 255.0));
                assert_true(crop[64] == (float)((double)y / 255.0));
            }
    pc_prepared_close(&p);
    // One of several: whole, on a square of the mean colour.
    assert_int_equal(pc_image_prepare(&p, &im, &c, 2), PC_OK);
    assert_int_equal(p.shape.rows, 1);
    assert_true(p.pixels[2 * 64] == 0.0F && p.pixels[2 * 64 + 4 * 8] > 0.7F);
    pc_prepared_close(&p);
}

// Patches of a picture that needs no resize, told by the order of the published processor.
static void test_patches(void **state)
{
    (void)state;
    uint8_t rgb[3 * 8 * 16];
    const pc_image im = picture(rgb, 16, 8);
    const pc_image_config c =
        plain("{\"kind\":\"patches\",\"patch\":2,\"temporal\":3,\"merge\":2,\"min_pixels\":16,"
              "\"max_pixels\":4096,\"mean\":[0,0,0],\"std\":[1,1,1]}");
    pc_prepared p;
    assert_int_equal(pc_image_prepare(&p, &im, &c, 1), PC_OK);
    assert_true(p.shape.grid[0] == 1 && p.shape.grid[1] == 4 && p.shape.grid[2] == 8);
    assert_true(p.shape.rows == 32 && p.shape.row == 36);
    int64_t r = 0;
    for (int64_t by = 0; by < 2; by++)
        for (int64_t bx = 0; bx < 4; bx++)
            for (int64_t m = 0; m < 4; m++, r++)
                for (int64_t k = 0; k < 36; k++) {
                    const int64_t ch = k / 12, y = (2 * by + m / 2) * 2 + k % 4 / 2,
                                  x = (2 * bx + m % 2) * 2 + k % 2;
                    const double want = ch == 0 ? (double)x : ch == 1 ? (double)y : 200.0;
                    assert_true(p.pixels[r * 36 + k] == (float)(want / 255.0));
                }
    pc_prepared_close(&p);
    const pc_image thin = {rgb, 1, 300};
    assert_int_equal(pc_image_prepare(&p, &thin, &c, 1), PC_ERR_INPUT);
    assert_null(p.pixels);
}

// The small square from floats: what the 8-bit one rounds.
static void test_float_low(void **state)
{
    (void)state;
    uint8_t rgb[3 * 40 * 60];
    pc_image im = picture(rgb, 60, 40);
    pc_image_config c =
        plain("{\"size\":16,\"kind\":\"hybrid\",\"filter\":\"bilinear\",\"mean\":[0,0,0],\"std\":"
              "[1,1,1],\"high\":{\"size\":48,\"filter\":\"bicubic\",\"mean\":[0,0,0],\"std\":"
              "[1,1,1],\"fill\":[10,20,30]}}");
    pc_prepared bytes, floats;
    assert_int_equal(pc_image_prepare(&bytes, &im, &c, 1), PC_OK);
    c.high.float_low = true;
    assert_int_equal(pc_image_prepare(&floats, &im, &c, 1), PC_OK);
    double most = 0.0;
    bool same = true;
    for (int64_t i = 0; i < 3 * 16 * 16; i++) {
        const double d = fabs((double)bytes.pixels[i] - (double)floats.pixels[i]);
        same &= d == 0.0;
        if (d > most) most = d;
    }
    assert_false(same);
    assert_true(most <= 1.01 / 255.0); // two roundings to 8 bits; seen 0.0031
    assert_memory_equal(bytes.high, floats.high, 3 * 48 * 48 * sizeof(float));
    assert_true(floats.high[0] == (float)(10.0 / 255.0)); // padded above
    pc_prepared_close(&bytes);
    pc_prepared_close(&floats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ours),      cmocka_unit_test(test_ours_refused),
        cmocka_unit_test(test_published), cmocka_unit_test(test_published_refused),
        cmocka_unit_test(test_tiles),     cmocka_unit_test(test_patches),
        cmocka_unit_test(test_float_low),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
