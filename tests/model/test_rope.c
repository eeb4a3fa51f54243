/*
 * test_rope.c - rotary tables: published frequencies for each scaling, and two positions a row.
 */
#include <math.h>

#include "model/layers/attention.h"
#include "model/networks/runner.h"
#include "tests/support/check.h"

static double at(pc_tensor t, int64_t row, int64_t j)
{
    return ((const double *)t.data)[row * t.dim[1] + j];
}

static void test_tables(void)
{
    pc_arena a;
    pc_rope r;
    CHECK(!pc_arena_open(&a, "tables", 1 << 22));
    const pc_rope_config plain = {.theta = 1e4};
    pc_rope_tables(&r, &a, PC_F64, &plain, 5, 8);
    for (int64_t p = 0; p < 5; p++)
        for (int64_t j = 0; j < 4; j++) {
            const double angle = (double)p * pow(1e4, -2.0 * (double)j / 8.0);
            CHECK(fabs(at(r.cos_table, p, j) - cos(angle)) < 1e-15);
            CHECK(fabs(at(r.sin_table, p, j) - sin(angle)) < 1e-15);
        }
    const pc_rope_config linear = {.theta = 1e4, .scaling = PC_ROPE_LINEAR, .factor = 4.0};
    pc_rope_tables(&r, &a, PC_F64, &linear, 5, 8);
    CHECK(fabs(at(r.sin_table, 4, 0) - sin(1.0)) < 1e-15);

    // The divisors of the published llama3 stretching, D 128.
    static const struct {
        int64_t j;
        double divisor;
    } known[] = {{28, 1.0},         {29, 1.207483871}, {30, 1.553414629},
                 {32, 2.694529688}, {34, 5.257326589}, {35, 8.0}};
    const pc_rope_config llama3 = {.theta = 5e5,
                                   .scaling = PC_ROPE_LLAMA3,
                                   .factor = 8.0,
                                   .low_freq = 1.0,
                                   .high_freq = 4.0,
                                   .original_max = 8192.0};
    pc_rope_tables(&r, &a, PC_F64, &llama3, 2, 128);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const double inv = pow(5e5, -2.0 * (double)known[i].j / 128.0);
        const double got = inv / asin(at(r.sin_table, 1, known[i].j));
        CHECK(fabs(got / known[i].divisor - 1.0) < 1e-9); // the figures have ten digits
    }

    // And of YaRN's, whose cosines and sines are 0.1 ln 4 + 1 times as large.
    static const struct {
        int64_t j;
        double kept;
    } ramp[] = {{0, 1.0},          {23, 1.0},  {24, 0.955882353}, {30, 0.691176471},
                {39, 0.294117647}, {40, 0.25}, {63, 0.25}};
    pc_rope_config yarn = {.theta = 1e6,
                           .scaling = PC_ROPE_YARN,
                           .factor = 4.0,
                           .original_max = 32768.0,
                           .beta_fast = 32.0,
                           .beta_slow = 1.0};
    pc_rope_tables(&r, &a, PC_F64, &yarn, 2, 128);
    for (size_t i = 0; i < sizeof ramp / sizeof *ramp; i++) {
        const double c = at(r.cos_table, 1, ramp[i].j), s = at(r.sin_table, 1, ramp[i].j);
        const double inv = pow(1e6, -2.0 * (double)ramp[i].j / 128.0);
        CHECK(fabs(atan2(s, c) / inv - ramp[i].kept) < 1e-9);
        CHECK(fabs(hypot(s, c) - 1.138629436) < 1e-9);
    }
    yarn.attn_factor = 0.5;
    yarn.ramp_exact = true; // from 23.6 to 39.7
    pc_rope_tables(&r, &a, PC_F64, &yarn, 2, 128);
    CHECK(fabs(hypot(at(r.sin_table, 1, 7), at(r.cos_table, 1, 7)) - 0.5) < 1e-12);
    const double low = 128.0 * log(32768.0 / (64.0 * acos(-1.0))) / (2.0 * log(1e6));
    const double high = 128.0 * log(32768.0 / (2.0 * acos(-1.0))) / (2.0 * log(1e6));
    const double part = (30.0 - low) / (high - low);
    CHECK(fabs(atan2(at(r.sin_table, 1, 30), at(r.cos_table, 1, 30)) / pow(1e6, -60.0 / 128.0) -
               (0.25 * part + 1.0 - part)) < 1e-12);
    pc_arena_close(&a);
}

/* The base of a pass grows with its largest position once that is beyond the length of training. */
static void test_dynamic(void)
{
    enum { N = 4, D = 8 };
    static const int32_t inside[N] = {0, 7, 3, 2}, beyond[N] = {0, 24, 3, 9};
    pc_arena act;
    const pc_rope_config c = {.theta = 1e3,
                              .scaling = PC_ROPE_DYNAMIC,
                              .factor = 3.0,
                              .original_max = 8.0};
    CHECK(!pc_arena_open(&act, "act", 1 << 16));
    pc_ctx ctx = {.ops = pc_cpu_ops(PC_ISA_REF, PC_F64), .real = PC_F64, .act = &act};
    for (int far = 0; far < 2; far++) {
        const int32_t *pos = far ? beyond : inside;
        const double n = 25.0, theta = far ? 1e3 * pow(3.0 * n / 8.0 - 2.0, 8.0 / 6.0) : 1e3;
        pc_seq seq = {.pos = pc_view1((void *)(uintptr_t)pos, PC_I32, N)};
        pc_rope_dynamic(&ctx, &seq, &c, D);
        CHECK(seq.rope.cos_table.dim[0] == N && seq.rope.cos_table.dim[1] == D / 2);
        for (int64_t i = 0; i < N; i++) {
            CHECK(pc_i32(seq.pos)[i] == i);
            for (int64_t j = 0; j < D / 2; j++) {
                const double angle = pos[i] * pow(theta, -2.0 * (double)j / (double)D);
                CHECK(fabs(at(seq.rope.cos_table, i, j) - cos(angle)) < 1e-13);
                CHECK(fabs(at(seq.rope.sin_table, i, j) - sin(angle)) < 1e-13);
            }
        }
    }
    pc_arena_close(&act);
}

/* Even frequencies by the first position, odd ones by the second; equal positions change nothing. */
static void test_two_positions(void)
{
    enum { N = 5, HALF = 4, R = 9 };
    static const int32_t x[N] = {0, 3, 8, 2, 7}, y[N] = {5, 3, 1, 2, 0};
    pc_arena a, act, scratch;
    pc_rope r;
    const pc_rope_config c = {.theta = 100.0};
    CHECK(!pc_arena_open(&a, "tables", 1 << 16) && !pc_arena_open(&act, "act", 1 << 16));
    CHECK(!pc_arena_open(&scratch, "scratch", 1 << 16));
    pc_rope_tables(&r, &a, PC_F64, &c, R, 2 * HALF);
    pc_rope_tables_2d(&r, &a);
    pc_ctx ctx = {.ops = pc_cpu_ops(PC_ISA_REF, PC_F64),
                  .real = PC_F64,
                  .act = &act,
                  .scratch = &scratch};
    for (int both = 0; both < 2; both++) {
        pc_seq seq = {.rope = r,
                      .pos = pc_view1((void *)(uintptr_t)x, PC_I32, N),
                      .pos_y = pc_view1((void *)(uintptr_t)y, PC_I32, N)};
        if (!both) seq.pos_y = PC_NONE;
        pc_rope_resolve(&ctx, &seq);
        CHECK(!pc_present(seq.pos_y) && seq.rope.cos_table.dim[0] == N);
        for (int64_t n = 0; n < N; n++) {
            CHECK(pc_i32(seq.pos)[n] == n);
            for (int64_t j = 0; j < HALF; j++) {
                const int32_t p = both && j % 2 ? y[n] : x[n];
                CHECK(at(seq.rope.cos_table, n, j) == at(r.cos_table, p, j));
                CHECK(at(seq.rope.sin_table, n, j) == at(r.sin_table, p, j));
            }
        }
    }
    pc_arena_close(&a);
    pc_arena_close(&act);
    pc_arena_close(&scratch);
}

int main(void)
{
    test_tables();
    test_dynamic();
    test_two_positions();
    return check_report("rotary positions");
}
