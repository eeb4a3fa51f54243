/*
 * test_numbers.c - narrow types: every bit pattern survives widening and narrowing; rounding is to nearest, ties to even.
 */
#include "checkpoints/numbers.h"
#include "model/core/quant.h"
#include "checkpoints/safetensors.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void every_pattern(pc_dtype t)
{
    uint16_t *all = malloc(65536 * sizeof *all), *back = malloc(65536 * sizeof *back);
    float *wide = malloc(65536 * sizeof *wide);
    assert_true(all && back && wide);
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    pc_widen(wide, all, t, 65536);
    pc_narrow(back, t, wide, 65536);
    for (int i = 0; i < 65536; i++)
        if (back[i] != all[i]) fail_msg("%04x came back as %04x", all[i], back[i]);
    // Between two neighbours the halfway value goes to the even one, a touch more or less to the nearer.
    for (int i = 0; i < 65535; i++) {
        if ((i & 0x7FFF) == 0x7FFF || !isfinite(wide[i]) || !isfinite(wide[i + 1])) continue;
        const float mid = (float)(((double)wide[i] + (double)wide[i + 1]) / 2.0);
        uint16_t h[3];
        const float near[3] = {nextafterf(mid, wide[i]), mid, nextafterf(mid, wide[i + 1])};
        pc_narrow(h, t, near, 3);
        if (h[0] != i || h[1] != i + (i & 1) || h[2] != i + 1)
            fail_msg("between %04x and %04x: %04x %04x %04x", i, i + 1, h[0], h[1], h[2]);
    }
    free(all);
    free(back);
    free(wide);
}

static void test_bf16(void **state)
{
    (void)state;
    every_pattern(PC_BF16);
    assert_int_equal(pc_f32_to_bf16(1.00390625F), 0x3F80);
    assert_int_equal(pc_f32_to_bf16(1.01171875F), 0x3F82);
    assert_int_equal(pc_f32_to_bf16(3.4e38F), 0x7F80);
    assert_true((pc_f32_to_bf16(nanf("1")) & 0x7FC0) == 0x7FC0);
}

static void test_f16(void **state)
{
    (void)state;
    every_pattern(PC_F16);
    assert_int_equal(pc_f32_to_f16(65519.0F), 0x7BFF);
    assert_int_equal(pc_f32_to_f16(65520.0F), 0x7C00);
    assert_int_equal(pc_f32_to_f16(-1e30F), 0xFC00);
    assert_int_equal(pc_f32_to_f16(0x1p-25F), 0);
    assert_int_equal(pc_f32_to_f16(0x1.002p-25F), 1);
    assert_int_equal(pc_f32_to_f16(-0x1p-40F), 0x8000);
}

static uint64_t bits_at(const pc_st_entry *e, size_t i)
{
    uint64_t u;
    memcpy(&u, (const char *)e->data + 8 * i, sizeof u);
    return u;
}

// Values and what PyTorch rounds them to, of the optional reference folder.
static void test_shared(void **state)
{
    (void)state;
    const char *path = shared_path("goldens/numerics/rounding.safetensors");
    pc_safetensors *s = NULL;
    if (!path) {
        print_message("skipped: no ../shared\n");
        skip();
    }
    assert_int_equal(pc_safetensors_open(&s, path), PC_OK);
    const struct {
        const char *from, *to;
        pc_dtype type;
    } ways[] = {{"f32_bits", "bf16_bits", PC_BF16}, {"f32_bits", "f16_bits", PC_F16}};
    for (size_t k = 0; k < 2; k++) {
        const pc_st_entry *from = pc_safetensors_find(s, ways[k].from),
                          *to = pc_safetensors_find(s, ways[k].to);
        assert_true(from && to && from->bytes == to->bytes && from->bytes > 8000);
        for (size_t i = 0; i < from->bytes / 8; i++) {
            const uint32_t u = (uint32_t)bits_at(from, i);
            float f;
            uint16_t h;
            memcpy(&f, &u, sizeof f);
            pc_narrow(&h, ways[k].type, &f, 1);
            if (h != bits_at(to, i))
                fail_msg("%08x gives %04x, not %04lx", u, h, (long)bits_at(to, i));
        }
    }
    const pc_st_entry *from = pc_safetensors_find(s, "f16_in_bits"),
                      *to = pc_safetensors_find(s, "f16_to_f32_bits");
    assert_true(from && to && from->bytes == to->bytes && from->bytes > 8000);
    for (size_t i = 0; i < from->bytes / 8; i++) {
        const float f = pc_f16_to_f32((uint16_t)bits_at(from, i));
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        if (u != bits_at(to, i)) fail_msg("%04lx gives %08x", (long)bits_at(from, i), u);
    }
    const pc_st_entry *nan = pc_safetensors_find(s, "f32_nan_bits");
    for (size_t i = 0; i < nan->bytes / 8; i++) {
        const uint32_t u = (uint32_t)bits_at(nan, i);
        float f, g;
        uint16_t h;
        memcpy(&f, &u, sizeof f);
        for (int k = 0; k < 2; k++) {
            pc_narrow(&h, ways[k].type, &f, 1);
            pc_widen(&g, &h, ways[k].type, 1);
            assert_true(isnan(g));
        }
    }
    pc_safetensors_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
