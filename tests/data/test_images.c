/*
 * test_images.c - the odd files of real folders: what can be shown comes out upright and of the right size, the
 * rest ends in a message; the streaming resize equals one written straight from the definition.
 */
#include "data/images/decode.h"
#include "model/core/file.h"
#include "model/core/rng.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <webp/encode.h>
#include <cmocka.h>

/* ---- pictures made here ---- */

// Left half red, right half blue, the top quarter green: every orientation looks different.
static void paint(uint8_t *rgb, int64_t w, int64_t h)
{
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            uint8_t *p = rgb + 3 * (y * w + x);
            const bool top = y < h / 4;
            p[0] = !top && x < w / 2 ? 250 : 5;
            p[1] = top ? 250 : 5;
            p[2] = !top && x >= w / 2 ? 250 : 5;
        }
}

static char colour_at(const pc_image *im, int64_t x, int64_t y)
{
    const uint8_t *p = im->rgb + 3 * (y * im->width + x);
    return p[0] > 125 ? 'r' : p[1] > 125 ? 'g' : p[2] > 125 ? 'b' : '-';
}

// A JPEG with an EXIF orientation; malloc'ed. `big`: big-endian EXIF.
static unsigned char *make_jpeg(unsigned long *size, int64_t w, int64_t h, int orientation,
                                bool big)
{
    struct jpeg_compress_struct c = {0};
    struct jpeg_error_mgr err;
    unsigned char *out = NULL, exif[32] = "Exif\0\0", *t = exif + 6;
    static const unsigned char little_tiff[] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12,
                                                1,   3,   0,  1, 0, 0, 0, 0, 0, 0, 0};
    static const unsigned char big_tiff[] = {'M',  'M', 0, 42, 0, 0, 0, 8, 0, 1, 1,
                                             0x12, 0,   3, 0,  0, 0, 1, 0, 0, 0, 0};
    memcpy(t, big ? big_tiff : little_tiff, sizeof big_tiff);
    t[big ? 19 : 18] = (unsigned char)orientation;
    uint8_t *rgb = malloc((size_t)(3 * w * h));
    assert_non_null(rgb);
    paint(rgb, w, h);
    c.err = jpeg_std_error(&err);
    jpeg_create_compress(&c);
    *size = 0;
    jpeg_mem_dest(&c, &out, size);
    c.image_width = (unsigned)w;
    c.image_height = (unsigned)h;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 95, TRUE);
    jpeg_start_compress(&c, TRUE);
    if (orientation) jpeg_write_marker(&c, JPEG_APP0 + 1, exif, 6 + sizeof big_tiff);
    while (c.next_scanline < c.image_height) {
        JSAMPROW row = rgb + 3 * w * c.next_scanline;
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    free(rgb);
    return out;
}

static void test_orientations(void **state)
{
    (void)state;
    // What stands at the top-left, top-right, bottom-left, bottom-right corner of the picture shown.
    static const char *const corners[9] = {"ggrb", "ggrb", "ggbr", "brgg", "rbgg",
                                           "grgb", "rgbg", "bgrg", "gbgr"};
    for (int o = 0; o <= 9; o++)
        for (int big = 0; big < 2; big++) {
            unsigned long size;
            pc_image im;
            unsigned char *bytes = make_jpeg(&size, 64, 32, o, big);
            assert_int_equal(pc_image_decode(&im, bytes, size, true), PC_OK);
            const bool turned = o >= 5 && o <= 8;
            const char *want = corners[o <= 8 ? o : 0]; // 9 is no orientation
            assert_int_equal(im.width, turned ? 32 : 64);
            assert_int_equal(im.height, turned ? 64 : 32);
            const int64_t x = im.width - 3, y = im.height - 3;
            const char got[5] = {colour_at(&im, 2, 2), colour_at(&im, x, 2), colour_at(&im, 2, y),
                                 colour_at(&im, x, y), '\0'};
            if (strcmp(got, want) != 0) fail_msg("orientation %d: %s, expected %s", o, got, want);
            pc_image_close(&im);
            assert_int_equal(pc_image_decode(&im, bytes, size, false), PC_OK);
            assert_int_equal(im.width, 64);
            assert_int_equal(colour_at(&im, 2, 2), 'g');
            pc_image_close(&im);
            free(bytes);
        }
}

// Cut anywhere: a message; a byte changed anywhere: any answer but a crash.
static void hurt(const unsigned char *bytes, size_t size, size_t step, size_t whole)
{
    unsigned char *copy = malloc(size);
    pc_image im;
    assert_non_null(copy);
    for (size_t cut = 0; cut < whole; cut += cut < 64 ? 1 : step) {
        memcpy(copy, bytes, cut);
        if (!pc_image_decode(&im, copy, cut, true))
            fail_msg("%zu of %zu bytes were taken for an image", cut, size);
        assert_true(strlen(pc_error_text()) > 10);
    }
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_TEST};
    for (uint64_t i = 0; i < 400; i++) {
        memcpy(copy, bytes, size);
        for (uint64_t k = 0; k < 1 + i % 3; k++)
            copy[pc_rng_u32(&key, 8 * i + 2 * k) % size] =
                (unsigned char)pc_rng_u32(&key, 8 * i + 2 * k + 1);
        if (!pc_image_decode(&im, copy, size, true)) pc_image_close(&im);
    }
    free(copy);
}

static void test_damaged_jpeg(void **state)
{
    (void)state;
    unsigned long size;
    unsigned char *bytes = make_jpeg(&size, 40, 30, 6, false);
    hurt(bytes, size, 17, size - 8);
    free(bytes);
}

static void test_webp(void **state)
{
    (void)state;
    uint8_t rgb[3 * 24 * 16], rgba[4 * 24 * 16], *out = NULL;
    pc_image im;
    paint(rgb, 24, 16);
    size_t size = WebPEncodeLosslessRGB(rgb, 24, 16, 3 * 24, &out);
    assert_true(size > 0);
    assert_int_equal(pc_image_decode(&im, out, size, true), PC_OK);
    assert_memory_equal(im.rgb, rgb, sizeof rgb);
    pc_image_close(&im);
    hurt(out, size, 3, size - 2);
    WebPFree(out);

    for (int i = 0; i < 24 * 16; i++) {
        memcpy(rgba + 4 * i, rgb + 3 * i, 3);
        rgba[4 * i + 3] = i % 3 == 0 ? 0 : i % 3 == 1 ? 255 : 128;
    }
    size = WebPEncodeLosslessRGBA(rgba, 24, 16, 4 * 24, &out);
    assert_true(size > 0);
    assert_int_equal(pc_image_decode(&im, out, size, true), PC_OK);
    for (int i = 0; i < 24 * 16; i++)
        for (int c = 0; c < 3; c++) {
            const int v = rgb[3 * i + c], got = im.rgb[3 * i + c];
            const int want = i % 3 == 0 ? 255 : i % 3 == 1 ? v : (128 * v + 127 * 255 + 127) / 255;
            assert_int_equal(got, want);
        }
    pc_image_close(&im);
    WebPFree(out);
}

// The smallest BMP, GIF and PNM files, byte by byte.
static void test_small_formats(void **state)
{
    (void)state;
    static const unsigned char bmp[] = {'B', 'M', 70, 0, 0, 0, 0,  0, 0, 0, 54, 0, 0, 0,
                                        40,  0,   0,  0, 2, 0, 0,  0, 2, 0, 0,  0, 1, 0,
                                        24,  0,   0,  0, 0, 0, 16, 0, 0, 0, 0,  0, 0, 0,
                                        0,   0,   0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0,
                                        9,   0,   9,  0, 0, 0, 9,  0, 0, 9, 9,  9, 0, 0},
                               gif[] = {'G', 'I', 'F', '8', '9', 'a', 2,  0,    1,    0, 0x80, 0,
                                        0,   10,  20,  30,  40,  50,  60, 0x2C, 0,    0, 0,    0,
                                        2,   0,   1,   0,   0,   2,   2,  0x44, 0x0A, 0, 0x3B},
                               ppm[] = {'P', '6',  '\n', '2', ' ', '1', '\n', '2', '5',
                                        '5', '\n', 1,    2,   3,   4,   5,    6};
    static const struct {
        const unsigned char *bytes;
        size_t size, whole; // whole: shorter cuts must fail
        int64_t w, h;
        unsigned char first[3], last[3];
    } files[] = {
        {bmp, sizeof bmp, sizeof bmp - 2, 2, 2, {0, 0, 9}, {0, 9, 0}},
        {gif, sizeof gif, sizeof gif - 2, 2, 1, {10, 20, 30}, {40, 50, 60}},
        {ppm, sizeof ppm, sizeof ppm, 2, 1, {1, 2, 3}, {4, 5, 6}},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        pc_image im;
        if (pc_image_decode(&im, files[i].bytes, files[i].size, true))
            fail_msg("file %zu: %s", i, pc_error_text());
        assert_int_equal(im.width, files[i].w);
        assert_int_equal(im.height, files[i].h);
        assert_memory_equal(im.rgb, files[i].first, 3);
        assert_memory_equal(im.rgb + 3 * (im.width * im.height - 1), files[i].last, 3);
        pc_image_close(&im);
        hurt(files[i].bytes, files[i].size, 1, files[i].whole);
    }
}

static void test_not_images(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *message;
    } cases[] = {
        {"", 0, "the file is empty"},
        {"hello there", 11, "not an image"},
        {"<!DOCTYPE html><p>404", 21, "the file is HTML"},
        {"II*\0\0\0\0\0\0\0\0\0", 12, "the file is TIFF"},
        {"\0\0\0\x18"
         "ftypheic",
         12, "HEIF"},
        {"\x89PNG\r\n\x1a\n", 8, "no header"},
        {"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xEA\x60\0\0\xEA\x60\x08\x02\0\0\0\0\0\0\0", 33,
         "60000 x 60000 pixels"},
        {"GIF89a\xFF\xFF\xFF\xFF\0\0\0", 13, "65535 x 65535 pixels"},
        {"\xFF\xD8\xFF\xD9", 4, "JPEG"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pc_image im;
        scratch_write("case.jpg", cases[i].bytes, cases[i].size);
        const pc_status st = pc_image_open(&im, scratch_path("case.jpg"), true);
        if (!st || !strstr(pc_error_text(), cases[i].message) ||
            !strstr(pc_error_text(), "case.jpg"))
            fail_msg("case %zu: status %d, '%s'", i, (int)st, pc_error_text());
        assert_null(im.rgb);
    }
    pc_image im;
    assert_int_equal(pc_image_open(&im, scratch_path("nobody.png"), true), PC_ERR_IO);
    assert_non_null(strstr(pc_error_text(), "nobody.png"));
}

/* ---- the folder of odd files ---- */

static bool is_tiff(const char *name)
{
    const size_t n = strlen(name);
    return n > 4 && !strcmp(name + n - 4, ".tif");
}

static void test_odd_images(void **state)
{
    (void)state;
    const char *list = shared_path("data/odd-images/expected.json");
    if (!list) skip();
    json_t *expected = json_load_file(list, 0, NULL), *entry;
    size_t i, shown = 0, refused = 0;
    assert_non_null(expected);
    json_array_foreach(json_object_get(expected, "images"), i, entry)
    {
        char path[512];
        pc_image im;
        const char *file = json_string_value(json_object_get(entry, "file"));
        const bool good = json_is_true(json_object_get(entry, "decodable")) && !is_tiff(file);
        snprintf(path, sizeof path, "data/odd-images/%s", file);
        const pc_status st = pc_image_open(&im, shared_path(path), true);
        if (good != !st) fail_msg("%s: %s", file, st ? pc_error_text() : "was decoded");
        if (st) {
            assert_non_null(strstr(pc_error_text(), file));
            refused++;
            continue;
        }
        const json_t *size = json_object_get(entry, "oriented_size");
        assert_int_equal(im.width, json_integer_value(json_array_get(size, 0)));
        assert_int_equal(im.height, json_integer_value(json_array_get(size, 1)));
        float pixels[3 * 32 * 32];
        pc_image_config c = pc_image_config_default(32);
        for (int fit = PC_FIT_PAD; fit <= PC_FIT_SQUASH; fit++) {
            c.fit = (pc_fit)fit;
            assert_int_equal(pc_image_preprocess(pixels, &im, &c), PC_OK);
            for (int k = 0; k < 3 * 32 * 32; k++) assert_true(isfinite(pixels[k]));
        }
        pc_image_close(&im);
        shown++;
    }
    print_message("%zu shown, %zu refused\n", shown, refused);
    json_decref(expected);
}

/* ---- resize ---- */

static double kernel(double x, pc_filter f)
{
    x = fabs(x);
    if (f == PC_FILTER_BILINEAR) return x < 1 ? 1 - x : 0;
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// One axis of one channel, straight from the definition; samples `stride` apart.
static void slow_axis(uint8_t *out, int64_t n_out, int64_t step_out, const uint8_t *in,
                      int64_t n_in, int64_t step_in, pc_filter f)
{
    const double scale = (double)n_in / (double)n_out, fs = scale > 1 ? scale : 1;
    const double support = (f == PC_FILTER_BICUBIC ? 2 : 1) * fs;
    for (int64_t o = 0; o < n_out; o++) {
        const double center = ((double)o + 0.5) * scale;
        int64_t lo = (int64_t)(center - support + 0.5), hi = (int64_t)(center + support + 0.5),
                sum = 0;
        double total = 0;
        if (lo < 0) lo = 0;
        if (hi > n_in) hi = n_in;
        for (int64_t i = lo; i < hi; i++) total += kernel(((double)i - center + 0.5) * (1 / fs), f);
        for (int64_t i = lo; i < hi; i++) {
            const double w = kernel(((double)i - center + 0.5) * (1 / fs), f) / total * 4194304.0;
            sum += (int64_t)(w + (w < 0 ? -0.5 : 0.5)) * in[i * step_in];
        }
        const int64_t v = (sum + (1 << 21)) >> 22;
        out[o * step_out] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
}

static void slow_resize(uint8_t *out, int64_t w, int64_t h, const pc_image *in, pc_filter f)
{
    uint8_t *mid = malloc((size_t)(3 * w * in->height));
    assert_non_null(mid);
    for (int64_t y = 0; y < in->height; y++)
        for (int c = 0; c < 3; c++)
            slow_axis(mid + 3 * w * y + c, w, 3, in->rgb + 3 * in->width * y + c, in->width, 3, f);
    for (int64_t x = 0; x < w; x++)
        for (int c = 0; c < 3; c++)
            slow_axis(out + 3 * x + c, h, 3 * w, mid + 3 * x + c, in->height, 3 * w, f);
    free(mid);
}

static void test_resize(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {// in, out
                                       {1, 1, 1, 1},    {1, 1, 9, 7},     {37, 1, 5, 8},
                                       {1, 61, 8, 3},   {13, 11, 13, 5},  {13, 11, 40, 11},
                                       {64, 48, 7, 90}, {50, 70, 49, 71}, {5, 4, 33, 65},
                                       {200, 3, 2, 2}};
    const pc_rng_key key = {.seed = 5, .stream = PC_STREAM_TEST};
    uint64_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int f = PC_FILTER_BILINEAR; f <= PC_FILTER_BICUBIC; f++) {
            const int64_t *s = sizes[i];
            pc_image in = {0}, got;
            assert_int_equal(pc_image_alloc(&in, s[0], s[1]), PC_OK);
            for (int64_t k = 0; k < 3 * s[0] * s[1]; k++) // extremes: overshoot must clip
                in.rgb[k] =
                    (uint8_t)(pc_rng_u32(&key, at++) & 1 ? 255 : pc_rng_u32(&key, at++) % 3);
            uint8_t *want = malloc((size_t)(3 * s[2] * s[3]));
            assert_non_null(want);
            slow_resize(want, s[2], s[3], &in, (pc_filter)f);
            assert_int_equal(pc_image_resize(&got, &in, s[2], s[3], (pc_filter)f), PC_OK);
            if (memcmp(want, got.rgb, (size_t)(3 * s[2] * s[3])) != 0)
                fail_msg("(%lld,%lld) to (%lld,%lld), filter %d", (long long)s[0], (long long)s[1],
                         (long long)s[2], (long long)s[3], f);
            free(want);
            pc_image_close(&in);
            pc_image_close(&got);
        }
}

// Padding and cropping are a resize of a built canvas, and a cut out of a whole resize.
static void test_fit(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{31, 17}, {17, 31}, {20, 20}, {90, 3}, {1, 40}, {6, 5}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t W = sizes[i][0], H = sizes[i][1], S = 24, side = W > H ? W : H;
        pc_image in = {0}, canvas = {0}, whole;
        uint8_t got[3 * 24 * 24];
        pc_image_config c = pc_image_config_default(S);
        assert_int_equal(pc_image_alloc(&in, W, H), PC_OK);
        assert_int_equal(pc_image_alloc(&canvas, side, side), PC_OK);
        paint(in.rgb, W, H);
        for (int64_t k = 0; k < side * side; k++) memcpy(canvas.rgb + 3 * k, "\x7A\x74\x68", 3);
        for (int64_t y = 0; y < H; y++)
            memcpy(canvas.rgb + 3 * ((y + (side - H) / 2) * side + (side - W) / 2),
                   in.rgb + 3 * y * W, (size_t)(3 * W));
        assert_int_equal(pc_image_resize(&whole, &canvas, S, S, PC_FILTER_BICUBIC), PC_OK);
        assert_int_equal(pc_image_fit(got, &in, &c), PC_OK);
        assert_memory_equal(got, whole.rgb, sizeof got);
        pc_image_close(&whole);

        c.fit = PC_FIT_CROP;
        const int64_t w = W <= H ? S : S * W / H, h = W <= H ? S * H / W : S;
        assert_int_equal(pc_image_resize(&whole, &in, w, h, PC_FILTER_BICUBIC), PC_OK);
        assert_int_equal(pc_image_fit(got, &in, &c), PC_OK);
        for (int64_t y = 0; y < S; y++)
            assert_memory_equal(got + 3 * S * y,
                                whole.rgb + 3 * ((y + (h - S) / 2) * w + (w - S) / 2),
                                (size_t)(3 * S));
        pc_image_close(&whole);
        pc_image_close(&canvas);
        pc_image_close(&in);
    }
}

/* ---- settings ---- */

static void test_settings(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"size\":64}", NULL},
        {"{\"size\":64,\"fit\":\"crop\",\"filter\":\"bilinear\",\"orient\":false}", NULL},
        {"{}", "no 'size'"},
        {"{\"size\":0}", "'size' is 0, expected 1 to"},
        {"{\"size\":\"64\"}", "not an integer"},
        {"{\"size\":64,\"fit\":\"padd\"}", "'fit' is 'padd', expected 'pad'"},
        {"{\"size\":64,\"sise\":1}", "unknown key 'sise' (did you mean 'size'?)"},
        {"{\"size\":64,\"mean\":[0,0]}", "three numbers"},
        {"{\"size\":64,\"std\":[1,0,1]}", "above 0"},
        {"[]", "not an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pc_image_config c, back;
        json_t *json = json_loads(cases[i].json, 0, NULL);
        const pc_status st = pc_image_config_from_json(&c, json);
        json_decref(json);
        if (!st != !cases[i].message || (st && !strstr(pc_error_text(), cases[i].message)))
            fail_msg("case %zu: status %d, '%s'", i, (int)st, pc_error_text());
        if (st) continue;
        json = pc_image_config_to_json(&c);
        assert_int_equal(pc_image_config_from_json(&back, json), PC_OK);
        json_decref(json);
        assert_memory_equal(c.mean, back.mean, sizeof c.mean);
        assert_memory_equal(c.std, back.std, sizeof c.std);
        assert_true(c.size == back.size && c.fit == back.fit && c.filter == back.filter &&
                    c.orient == back.orient);
    }
}

static int setup(void **state)
{
    (void)state;
    scratch_open();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orientations), cmocka_unit_test(test_damaged_jpeg),
        cmocka_unit_test(test_webp),         cmocka_unit_test(test_small_formats),
        cmocka_unit_test(test_not_images),   cmocka_unit_test(test_odd_images),
        cmocka_unit_test(test_resize),       cmocka_unit_test(test_fit),
        cmocka_unit_test(test_settings),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
