/*
 * test_matrix.c - what test_dense and test_attention leave open about products, cross-entropy and attention:
 * held to the portable kernels in double at the sizes of the quickstart and where strips of A are copied (rows
 * 4096 bytes apart), a fresh gradient's old numbers left unread, the same bits from any number of threads, what is not finite comes out, no rows at all.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"
#include "tests/support/guarded.h"

static uint64_t seed = 23;
static pc_ctx f64;
static pc_arena memory; // the copies in double, and their kernels' scratch

static pc_tensor in_double(pc_tensor x)
{
    const int64_t width = pc_row_len(x);
    pc_tensor y = x;
    y.dtype = PC_F64;
    y.stride = x.rank == 1 ? 1 : width;
    y.data = pc_arena_bytes(&memory, (size_t)(x.dim[0] * width) * sizeof(double));
    for (int64_t n = 0; n < x.dim[0]; n++)
        for (int64_t c = 0; c < width; c++)
            ((double *)y.data)[n * width + c] = (double)pc_f32(x, n)[c];
    return y;
}

// The double result goes where guarded_alike looks for the portable one.
static bool near_double(const char *what, guarded *g, pc_tensor exact, double tolerance)
{
    const int64_t width = pc_row_len(exact);
    for (int64_t n = 0; n < exact.dim[0]; n++)
        for (int64_t c = 0; c < width; c++)
            pc_f32(g->ref, n)[c] = (float)((double *)exact.data)[n * width + c];
    return guarded_alike(what, g, tolerance);
}

static void close_all(guarded **all, size_t count)
{
    for (size_t i = 0; i < count; i++) guarded_close(all[i]);
}
#define CLOSE(...)                                                                                 \
    close_all((guarded *[]){__VA_ARGS__}, sizeof((guarded *[]){__VA_ARGS__}) / sizeof(guarded *))

static void fill(pc_tensor x, double value)
{
    for (int64_t n = 0; n < x.dim[0]; n++)
        for (int64_t c = 0; c < pc_row_len(x); c++)
            if (x.dtype == PC_F64)
                ((double *)x.data)[n * x.stride + c] = value;
            else
                pc_f32(x, n)[c] = (float)value;
}

static void test_linear(pc_ctx *simd, int64_t N, int64_t I, int64_t O)
{
    guarded x = guarded_open(N, I, 0, 1, seed++), w = guarded_open(O, I, 0, 1, seed++);
    guarded b = guarded_vector(O, 1, seed++), y = guarded_open(N, O, 0, 1, seed++);
    guarded dy = guarded_open(N, O, 0, 1, seed++), dx = guarded_open(N, I, 0, 1, seed++);
    guarded dw = guarded_open(O, I, 0, 1, seed++), db = guarded_vector(O, 1, seed++);
    const size_t mark = pc_arena_mark(&memory);
    const pc_tensor X = in_double(x.ref), W = in_double(w.ref), Y = in_double(y.ref);
    const pc_tensor DY = in_double(dy.ref), DX = in_double(dx.ref), DW = in_double(dw.ref);
    const pc_tensor B = in_double(b.ref), DB = in_double(db.ref);
    f64.ops->linear_forward(&f64, Y, X, W, B, DY);
    simd->ops->linear_forward(simd, y.simd, x.ref, w.ref, b.ref, dy.ref);
    CHECK(near_double("linear", &y, Y, 1e-6)); // seen 3e-7
    f64.grad_ops->linear_backward(&f64, DX, DW, DB, DY, X, W, false);
    simd->grad_ops->linear_backward(simd, dx.simd, dw.simd, db.simd, dy.ref, x.ref, w.ref, false);
    CHECK(near_double("linear dx", &dx, DX, 1e-6)); // seen 3e-7
    CHECK(near_double("linear dw", &dw, DW, 1e-6)); // seen 3e-7
    CHECK(near_double("linear db", &db, DB, 1e-6)); // seen 2e-7
    fill(DW, NAN);
    fill(dw.simd, NAN);
    f64.grad_ops->linear_backward(&f64, PC_NONE, DW, PC_NONE, DY, X, W, true);
    simd->grad_ops->linear_backward(simd, PC_NONE, dw.simd, PC_NONE, dy.ref, x.ref, w.ref, true);
    CHECK(near_double("linear fresh dw", &dw, DW, 1e-6)); // seen 3e-7
    pc_arena_release(&memory, mark);
    CLOSE(&x, &w, &b, &y, &dy, &dx, &dw, &db);
}

static void test_xent(pc_ctx *simd, int64_t N, int64_t C, int64_t V)
{
    guarded x = guarded_open(N, C, 0, 1, seed++), w = guarded_open(V, C, 0, 0.3f, seed++);
    guarded nll = guarded_vector(N, 1, seed++), coef = guarded_vector(N, 1, seed++);
    guarded dx = guarded_open(N, C, 0, 1, seed++), dw = guarded_open(V, C, 0, 0.1f, seed++);
    const size_t mark = pc_arena_mark(&memory);
    int32_t *labels = pc_arena_bytes(&memory, (size_t)N * sizeof *labels);
    for (int64_t n = 0; n < N; n++) labels[n] = n % 4 == 1 ? -1 : (int32_t)((n * 7) % V);
    const pc_tensor l = pc_view1(labels, PC_I32, N);
    const pc_tensor X = in_double(x.ref), W = in_double(w.ref), COEF = in_double(coef.ref);
    const pc_tensor NLL = in_double(nll.ref), DX = in_double(dx.ref), DW = in_double(dw.ref);
    f64.grad_ops->linear_xent_backward(&f64, DX, DW, NLL, X, W, l, COEF);
    simd->grad_ops->linear_xent_backward(simd, dx.simd, dw.simd, nll.simd, x.ref, w.ref, l,
                                         coef.ref);
    CHECK(near_double("linear_xent nll", &nll, NLL, 1e-6)); // seen 4e-8
    CHECK(near_double("linear_xent dx", &dx, DX, 1e-6));    // seen 3e-7
    CHECK(near_double("linear_xent dw", &dw, DW, 1e-6));    // seen 3e-7
    simd->ops->linear_xent_forward(simd, nll.simd, x.ref, w.ref, l);
    CHECK(near_double("linear_xent", &nll, NLL, 1e-6)); // seen 4e-8
    pc_arena_release(&memory, mark);
    CLOSE(&x, &w, &nll, &coef, &dx, &dw);
}

/* S images of 64 rows that see each other, behind each 12 questions of 15 rows that see it and themselves. */
enum { IMAGE = 64, QUESTION = 15, QUESTIONS = 12, ROWS = IMAGE + QUESTION * QUESTIONS, MOST = 4 };

typedef struct layout {
    int32_t off[MOST + 1], lo[MOST * ROWS], hi[MOST * ROWS], plo[MOST * ROWS], phi[MOST * ROWS];
    pc_mask mask;
} layout;

static void questions_behind_images(layout *l, int64_t S)
{
    const int64_t N = S * ROWS;
    for (int32_t s = 0; s <= S; s++) l->off[s] = s * ROWS;
    for (int32_t n = 0; n < N; n++) {
        const int32_t first = n / ROWS * ROWS, t = n % ROWS;
        const bool image = t < IMAGE;
        l->plo[n] = first;
        l->phi[n] = image ? first : first + IMAGE;
        l->lo[n] = image ? first : first + IMAGE + (t - IMAGE) / QUESTION * QUESTION;
        l->hi[n] = image ? first + IMAGE : n + 1;
    }
    l->mask = (pc_mask){.S = S,
                        .q_off = pc_view1(l->off, PC_I32, S + 1),
                        .k_off = pc_view1(l->off, PC_I32, S + 1),
                        .lo = pc_view1(l->lo, PC_I32, N),
                        .hi = pc_view1(l->hi, PC_I32, N),
                        .plo = pc_view1(l->plo, PC_I32, N),
                        .phi = pc_view1(l->phi, PC_I32, N)};
}

typedef struct attended {
    guarded q, k, v, o, lse, dout, dq, dk, dv;
} attended;

static attended attended_open(int64_t N, int64_t H, int64_t D)
{
    return (
        attended){guarded_heads(N, H, D, 0, 2, seed),     guarded_heads(N, H, D, 0, 2, seed + 1),
                  guarded_heads(N, H, D, 0, 1, seed + 2), guarded_heads(N, H, D, 0, 1, seed + 3),
                  guarded_open(N, H, 0, 1, seed + 4),     guarded_heads(N, H, D, 0, 1, seed + 5),
                  guarded_heads(N, H, D, 0, 1, seed + 6), guarded_heads(N, H, D, 0, 1, seed + 7),
                  guarded_heads(N, H, D, 0, 1, seed + 8)};
}

static void attended_close(attended *a)
{
    CLOSE(&a->q, &a->k, &a->v, &a->o, &a->lse, &a->dout, &a->dq, &a->dk, &a->dv);
}

static void attend(pc_ctx *ctx, attended *a, const pc_mask *mask, double scale)
{
    ctx->ops->attention_forward(ctx, a->o.simd, a->lse.simd, a->q.ref, a->k.ref, a->v.ref, mask,
                                scale);
    ctx->grad_ops->attention_backward(ctx, a->dq.simd, a->dk.simd, a->dv.simd, a->dout.ref,
                                      a->q.ref, a->k.ref, a->v.ref, a->o.simd, a->lse.simd, mask,
                                      scale);
}

static void test_attention(pc_ctx *simd, int64_t S, int64_t H, int64_t D)
{
    static layout l;
    questions_behind_images(&l, S);
    const double scale = 1.0 / sqrt((double)D);
    attended a = attended_open(S * ROWS, H, D);
    const size_t mark = pc_arena_mark(&memory);
    const pc_tensor Q = in_double(a.q.ref), K = in_double(a.k.ref), V = in_double(a.v.ref);
    const pc_tensor O = in_double(a.o.ref), LSE = in_double(a.lse.ref);
    const pc_tensor DO = in_double(a.dout.ref), DQ = in_double(a.dq.ref);
    const pc_tensor DK = in_double(a.dk.ref), DV = in_double(a.dv.ref);
    f64.ops->attention_forward(&f64, O, LSE, Q, K, V, &l.mask, scale);
    f64.grad_ops->attention_backward(&f64, DQ, DK, DV, DO, Q, K, V, O, LSE, &l.mask, scale);
    attend(simd, &a, &l.mask, scale);
    CHECK(near_double("attention o", &a.o, O, 1e-6));       // seen 4e-7
    CHECK(near_double("attention lse", &a.lse, LSE, 1e-6)); // seen 5e-8
    CHECK(near_double("attention dq", &a.dq, DQ, 1e-6));    // seen 4e-7
    CHECK(near_double("attention dk", &a.dk, DK, 1e-6));    // seen 5e-7
    CHECK(near_double("attention dv", &a.dv, DV, 1e-6));    // seen 5e-7
    pc_arena_release(&memory, mark);
    attended_close(&a);
}

static bool same_bits(const guarded *a, const guarded *b)
{
    return memcmp(a->memory[1], b->memory[1], (size_t)a->count * sizeof(float)) == 0;
}

// Whatever the number of threads: no sum changes its order.
static void test_threads(pc_ctx *one, pc_ctx *many, int64_t N, int64_t I, int64_t O)
{
    guarded x = guarded_open(N, I, 0, 1, 1), w = guarded_open(O, I, 0, 1, 2);
    guarded y[2], dx[2], dw[2], db[2];
    for (int i = 0; i < 2; i++) {
        pc_ctx *ctx = i ? many : one;
        y[i] = guarded_open(N, O, 0, 1, 3);
        dx[i] = guarded_open(N, I, 0, 1, 4);
        dw[i] = guarded_open(O, I, 0, 1, 5);
        db[i] = guarded_vector(O, 1, 6);
        ctx->ops->linear_forward(ctx, y[i].simd, x.ref, w.ref, PC_NONE, y[i].simd);
        ctx->grad_ops->linear_backward(ctx, dx[i].simd, dw[i].simd, db[i].simd, y[i].simd, x.ref,
                                       w.ref, false);
    }
    CHECK(same_bits(&y[0], &y[1]));
    CHECK(same_bits(&dx[0], &dx[1]));
    CHECK(same_bits(&dw[0], &dw[1]));
    CHECK(same_bits(&db[0], &db[1]));
    CLOSE(&x, &w, &y[0], &y[1], &dx[0], &dx[1], &dw[0], &dw[1], &db[0], &db[1]);
}

static void test_attention_threads(pc_ctx *one, pc_ctx *many)
{
    static layout l;
    questions_behind_images(&l, 2);
    attended a = attended_open(2 * ROWS, 3, 32), b = attended_open(2 * ROWS, 3, 32);
    attend(one, &a, &l.mask, 0.2);
    attend(many, &b, &l.mask, 0.2);
    CHECK(same_bits(&a.o, &b.o) && same_bits(&a.lse, &b.lse) && same_bits(&a.dq, &b.dq));
    CHECK(same_bits(&a.dk, &b.dk) && same_bits(&a.dv, &b.dv));
    attended_close(&a);
    attended_close(&b);
}

static int64_t not_finite(pc_tensor x, int64_t n)
{
    int64_t count = 0;
    for (int64_t c = 0; c < pc_row_len(x); c++) count += !isfinite(pc_f32(x, n)[c]);
    return count;
}

// One bad number spoils its own row of y and dx, its own row of dW, its own nll and dx; nothing hides it.
static void test_not_finite(pc_ctx *simd, float bad, int64_t N)
{
    enum { I = 40, O = 70, AT = 2 };
    guarded x = guarded_open(N, I, 0, 1, 1), w = guarded_open(O, I, 0, 1, 2);
    guarded y = guarded_open(N, O, 0, 1, 3), dy = guarded_open(N, O, 0, 1, 4);
    guarded dx = guarded_open(N, I, 0, 1, 5), dw = guarded_open(O, I, 0, 1, 6);
    guarded nll = guarded_vector(N, 1, 7), coef = guarded_vector(N, 1, 8);
    int32_t labels[64] = {0};
    const pc_tensor l = pc_view1(labels, PC_I32, N);
    pc_f32(x.ref, AT)[7] = bad;
    simd->ops->linear_forward(simd, y.simd, x.ref, w.ref, PC_NONE, PC_NONE);
    simd->grad_ops->linear_xent_backward(simd, dx.simd, dw.simd, nll.simd, x.ref, w.ref, l,
                                         coef.ref);
    for (int64_t n = 0; n < N; n++) {
        CHECK(not_finite(y.simd, n) == (n == AT ? O : 0));
        CHECK(isfinite(((float *)nll.simd.data)[n]) == (n != AT));
        CHECK(not_finite(dx.simd, n) == (n == AT ? I : 0));
    }
    CHECK(not_finite(dw.simd, 3) == I);

    guarded dv = guarded_open(O, I, 0, 1, 9);
    pc_f32(x.ref, AT)[7] = 1;
    pc_f32(dy.ref, AT)[11] = bad;
    simd->grad_ops->linear_backward(simd, dx.simd, dv.simd, PC_NONE, dy.ref, x.ref, w.ref, false);
    for (int64_t n = 0; n < N; n++) CHECK(not_finite(dx.simd, n) == (n == AT ? I : 0));
    for (int64_t o = 0; o < O; o++) CHECK(not_finite(dv.simd, o) == (o == 11 ? I : 0));
    CLOSE(&x, &w, &y, &dy, &dx, &dw, &nll, &coef, &dv);
}

// In attention a bad gradient of one output reaches its dq and the keys it saw; other images stay clean.
static void test_attention_not_finite(pc_ctx *simd, float bad)
{
    static layout l;
    questions_behind_images(&l, 2);
    attended a = attended_open(2 * ROWS, 3, 32);
    const int64_t at = ROWS + IMAGE + 5; // a question's row behind the second image
    pc_f32(a.dout.ref, at)[32] = bad;    // head 1
    attend(simd, &a, &l.mask, 0.2);
    CHECK(not_finite(a.dq.simd, at) == 32);
    CHECK(not_finite(a.dv.simd, ROWS) >= 1 && not_finite(a.dk.simd, ROWS) == 32);
    for (int64_t n = 0; n < ROWS; n++)
        CHECK(not_finite(a.dq.simd, n) + not_finite(a.dk.simd, n) + not_finite(a.dv.simd, n) == 0);
    attended_close(&a);
}

// A batch without rows changes no gradient, and leaves a fresh one zero.
static void test_no_rows(pc_ctx *simd)
{
    guarded x = guarded_open(3, 20, 0, 1, 1), w = guarded_open(40, 20, 0, 1, 2);
    guarded dy = guarded_open(3, 40, 0, 1, 3), dw = guarded_open(40, 20, 0, 1, 4);
    guarded db = guarded_vector(40, 1, 5), nll = guarded_vector(3, 1, 6);
    int32_t none = 0;
    const pc_tensor l = pc_view1(&none, PC_I32, 0);
    const pc_tensor empty_x = pc_rows(x.simd, 0, 0), empty_dy = pc_rows(dy.simd, 0, 0);
    const pc_tensor empty_nll = pc_rows(nll.simd, 0, 0);
    simd->ops->linear_forward(simd, empty_dy, empty_x, w.ref, db.ref, PC_NONE);
    simd->grad_ops->linear_backward(simd, empty_x, dw.simd, db.simd, empty_dy, empty_x, w.ref,
                                    false);
    simd->grad_ops->linear_xent_backward(simd, empty_x, dw.simd, empty_nll, empty_x, w.ref, l,
                                         empty_nll);
    CHECK(guarded_alike("no rows dw", &dw, 0));
    CHECK(guarded_alike("no rows db", &db, 0));
    const pc_grad_ops *both[2] = {simd->grad_ops, pc_cpu_grad_ops(PC_ISA_REF, PC_F32)};
    for (int i = 0; i < 2; i++) {
        fill(dw.simd, NAN);
        fill(dw.ref, 0);
        both[i]->linear_backward(simd, empty_x, dw.simd, db.simd, empty_dy, empty_x, w.ref, true);
        CHECK(guarded_alike("no rows fresh dw", &dw, 0));
    }
    CLOSE(&x, &w, &dy, &dw, &db, &nll);
}

static void test_isa(pc_isa isa, pc_pool *const pools[], int64_t pool_count)
{
    sides s;
    sides_open(&s, isa, NULL);
    test_linear(&s.simd, 37, 1024, 300);  // x's strips are copied
    test_linear(&s.simd, 300, 300, 1024); // dy's, both ways
    test_linear(&s.simd, 65, 2048, 1024);
    test_linear(&s.simd, 520, 64, 192); // the quickstart's
    test_linear(&s.simd, 976, 96, 512);
    test_linear(&s.simd, 976, 256, 96);
    test_xent(&s.simd, 700, 96, 768);
    test_xent(&s.simd, 700, 64, 1024);
    test_attention(&s.simd, 4, 3, 32);
    test_attention(&s.simd, 2, 2, 64);
    for (int64_t n = 3; n <= 45; n += 42) { // few rows take a way of their own
        test_not_finite(&s.simd, NAN, n);
        test_not_finite(&s.simd, INFINITY, n);
        test_not_finite(&s.simd, -INFINITY, n);
    }
    test_attention_not_finite(&s.simd, NAN);
    test_attention_not_finite(&s.simd, INFINITY);
    test_no_rows(&s.simd);
    for (int64_t i = 0; i < pool_count; i++) {
        pc_ctx many = s.simd;
        many.pool = pools[i];
        test_threads(&s.simd, &many, 515, 300, 130); // cut by rows
        test_threads(&s.simd, &many, 70, 130, 1100); // and by columns
        test_threads(&s.simd, &many, 5, 300, 1100);  // few rows
        test_threads(&s.simd, &many, 300, 1024, 1024);
        test_attention_threads(&s.simd, &many);
    }
    sides_close(&s);
}

int main(void)
{
    enum { POOLS = 3 };
    pc_isa best;
    pc_pool *pools[POOLS];
    if (pc_isa_choose(&best) || pc_arena_open(&memory, "double", (size_t)512 << 20)) return 1;
    for (int i = 0; i < POOLS; i++)
        if (pc_pool_open(&pools[i], i + 2)) return 1;
    f64 = (pc_ctx){.ops = pc_cpu_ops(PC_ISA_REF, PC_F64),
                   .grad_ops = pc_cpu_grad_ops(PC_ISA_REF, PC_F64),
                   .real = PC_F64,
                   .act = &memory,
                   .scratch = &memory};
    for (int isa = PC_ISA_AVX2; isa <= (int)best; isa++) test_isa((pc_isa)isa, pools, POOLS);
    for (int i = 0; i < POOLS; i++) pc_pool_close(pools[i]);
    pc_arena_close(&memory);
    guarded_report();
    return check_report("kernel.matrix: SIMD against double");
}
