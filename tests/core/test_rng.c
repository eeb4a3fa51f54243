/*
 * test_rng.c - the generator against the published vectors of Random123, and the numbers made from it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/rng.h"
#include "tests/support/check.h"

/* Random123's known answers for philox4x32 with ten rounds: counter, key, output. */
static void test_known_answers(void)
{
    static const struct {
        uint32_t c[4], k[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        pc_philox4x32(known[i].k, known[i].c, out);
        CHECK(!memcmp(out, known[i].out, sizeof out));
    }
}

static void test_words(void)
{
    const pc_rng_key key = {.seed = 7, .stream = PC_STREAM_TEST, .step = 9};
    uint32_t block[4];
    for (uint64_t b = 0; b < 3; b++) {
        pc_philox(&key, b, block);
        for (uint64_t i = 0; i < 4; i++) CHECK(pc_rng_u32(&key, 4 * b + i) == block[i]);
        for (uint64_t i = 0; i < 4; i++)
            CHECK(pc_rng_uniform(&key, 4 * b + i) == (double)block[i] / 4294967296.0);
    }
    // Each part of the key matters, and the counter's high half too.
    const pc_rng_key others[] = {{8, PC_STREAM_TEST, 9},
                                 {7, PC_STREAM_INIT, 9},
                                 {7, PC_STREAM_TEST, 10},
                                 {7, PC_STREAM_TEST, 9 | (uint64_t)1 << 40},
                                 {7 | (uint64_t)1 << 40, PC_STREAM_TEST, 9}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK(pc_rng_u32(&others[i], 0) != pc_rng_u32(&key, 0));
    CHECK(pc_rng_u32(&key, (uint64_t)1 << 40) != pc_rng_u32(&key, 0));
}

static void test_moments(void)
{
    enum { N = 200000 };
    const pc_rng_key key = {.seed = 1, .stream = PC_STREAM_TEST};
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, u1 = 0, u2 = 0, lag = 0, before = 0;
    for (uint64_t i = 0; i < N; i++) {
        const double z = pc_rng_normal(&key, i), u = pc_rng_uniform(&key, i);
        CHECK(u >= 0.0 && u < 1.0);
        m1 += z, m2 += z * z, m3 += z * z * z, m4 += z * z * z * z;
        u1 += u, u2 += u * u;
        lag += z * before;
        before = z;
    }
    // Within five standard errors: 1, sqrt 2, sqrt 15, sqrt 96 over sqrt N; sqrt(1/12), sqrt(4/45) for u.
    const double e = 5.0 / sqrt((double)N);
    CHECK(fabs(m1 / N) < e);
    CHECK(fabs(m2 / N - 1.0) < e * sqrt(2.0));
    CHECK(fabs(m3 / N) < e * sqrt(15.0));
    CHECK(fabs(m4 / N - 3.0) < e * sqrt(96.0));
    CHECK(fabs(lag / N) < e);
    CHECK(fabs(u1 / N - 0.5) < e * sqrt(1.0 / 12.0));
    CHECK(fabs(u2 / N - 1.0 / 3.0) < e * sqrt(4.0 / 45.0));
}

static void test_below(void)
{
    enum { N = 70000, K = 7 };
    const pc_rng_key key = {.seed = 2, .stream = PC_STREAM_TEST};
    int count[K] = {0};
    for (uint64_t i = 0; i < N; i++) {
        const uint64_t x = pc_rng_below(&key, i, K);
        CHECK(x < K);
        count[x]++;
    }
    for (int k = 0; k < K; k++) CHECK(abs(count[k] - N / K) < 5 * 93); // sqrt(N p (1-p)) = 92.6
    // Bounds above half of 2^64, where nearly every second draw must be repeated.
    const uint64_t most = UINT64_MAX / 2 + 2;
    uint64_t high = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        const uint64_t x = pc_rng_below(&key, i, most);
        CHECK(x < most);
        high += x >= most / 2;
    }
    CHECK(high > 880 && high < 1120);
    CHECK(pc_rng_below(&key, 5, 1) == 0);
}

static void test_permutation(void)
{
    enum { N = 1000 };
    int64_t a[N], b[N], seen[N] = {0}, fixed = 0;
    const pc_rng_key key = {.seed = 3, .stream = PC_STREAM_SHUFFLE, .step = 0};
    const pc_rng_key next = {.seed = 3, .stream = PC_STREAM_SHUFFLE, .step = 1};
    pc_rng_permutation(&key, a, N);
    for (int i = 0; i < N; i++) {
        CHECK(a[i] >= 0 && a[i] < N);
        seen[a[i]]++;
        fixed += a[i] == i;
    }
    for (int i = 0; i < N; i++) CHECK(seen[i] == 1);
    CHECK(fixed < 8); // one is expected
    pc_rng_permutation(&key, b, N);
    CHECK(!memcmp(a, b, sizeof a));
    pc_rng_permutation(&next, b, N);
    CHECK(memcmp(a, b, sizeof a));

    // Every order of three equally often.
    int order[6] = {0};
    for (uint64_t s = 0; s < 6000; s++) {
        const pc_rng_key k = {.seed = 4, .stream = PC_STREAM_TEST, .step = s};
        pc_rng_permutation(&k, a, 3);
        order[a[0] * 2 + (a[1] > a[2])]++;
    }
    for (int i = 0; i < 6; i++) CHECK(order[i] > 855 && order[i] < 1145); // five of 28.9
    pc_rng_permutation(&key, a, 0);
}

int main(void)
{
    test_known_answers();
    test_words();
    test_moments();
    test_below();
    test_permutation();
    return check_report("random numbers");
}
