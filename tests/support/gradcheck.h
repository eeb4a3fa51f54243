/*
 * gradcheck.h - is backward the derivative of forward?
 *
 * A check is a set of variables and a function that computes a scalar from them, in double. Every element
 * of every variable is moved by h = 1e-5 both ways, and the central differences are compared with
 * what backward wrote, by variable:  |numeric - analytic| / max(|numeric|, |analytic|)  (Frobenius).
 *
 * The contract of ops.h is checked on the way: gradients of parameters start from known numbers that must
 * still be inside afterwards (accumulated), gradients of activations start as NaN (overwritten), and the
 * arenas are filled with NaN before each run, so nothing may be read that was not written.
 *
 *     gradcheck g;
 *     gradcheck_open(&g, "layernorm (5,7)", 11, 1);
 *     pc_tensor dx, x = gradcheck_input(&g, &dx, "x", 1.0, PC_DIMS(5, 7));
 *     pc_weight gain = gradcheck_param(&g, "gain", 1.0, PC_DIMS(7));
 *     failed += !gradcheck_passes(&g, run, &arg, 1e-7); // seen 3e-10
 *     gradcheck_close(&g);
 */
#ifndef PC_TESTS_GRADCHECK_H
#define PC_TESTS_GRADCHECK_H

#include "model/layers/params.h"
#include "model/ops/ops.h"

typedef enum gradcheck_kind {
    GRADCHECK_PARAM,      // += into what was there
    GRADCHECK_ACTIVATION, // overwritten
} gradcheck_kind;

typedef struct gradcheck_var {
    char name[PC_NAME_MAX];
    pc_tensor x, g;
    gradcheck_kind kind;
    bool zero;       // the gradient is exactly zero: anything else is a failure
    double *numeric; // the differences of the last gradcheck_passes, by element
} gradcheck_var;

typedef struct gradcheck {
    const char *label;
    uint64_t seed, draws;
    pc_ctx ctx;
    pc_pool *pool;
    pc_arena act, scratch; // given empty to each run
    pc_arena hold;         // variables, gradients, weights of the scalar
    gradcheck_var *var;
    int count, capacity;
    bool quiet;   // prints nothing: for checks that are meant to fail
    double worst; // largest relative error of the last check
} gradcheck;

// The scalar, computed with ctx (arenas empty, operations in double). With `backward`, gradients too.
typedef double gradcheck_run(pc_ctx *ctx, void *arg, bool backward);

// Portable kernels in double on `threads` threads; every random number comes from `seed`.
void gradcheck_open(gradcheck *g, const char *label, uint64_t seed, int threads);
void gradcheck_close(gradcheck *g);

// Normal numbers that stay for the whole check. Not a variable.
pc_tensor gradcheck_random(gradcheck *g, double std, int rank, const int64_t *dim);
// i32 numbers that stay: a copy of `value`.
pc_tensor gradcheck_index(gradcheck *g, const int32_t *value, int64_t n);

// Variables. gradcheck_add takes any views (strided rows too).
pc_tensor gradcheck_input(gradcheck *g, pc_tensor *dx, const char *name, double std, int rank,
                          const int64_t *dim);
pc_weight gradcheck_param(gradcheck *g, const char *name, double std, int rank, const int64_t *dim);
gradcheck_var *gradcheck_add(gradcheck *g, const char *name, pc_tensor x, pc_tensor dx,
                             gradcheck_kind kind);
// A whole list: binds weights and gradients, gives every parameter random values around its initial ones
// (a bias of zero would hide its own gradient), adds the trainable ones as variables.
void gradcheck_params(gradcheck *g, pc_params *p, double std);

// Prints a line per variable that fails, one for the check; false when any error is above `tolerance`.
bool gradcheck_passes(gradcheck *g, gradcheck_run *run, void *arg, double tolerance);

// The differences of the last gradcheck_passes against what backward writes now: with another table, say.
bool gradcheck_again(gradcheck *g, gradcheck_run *run, void *arg, double tolerance);

// sum y w over all elements (either may be strided), and a dense copy in `a`.
double gradcheck_dot(pc_tensor y, pc_tensor w);
pc_tensor gradcheck_copy(pc_arena *a, pc_tensor x);

// One run from clean arenas; for comparing results rather than derivatives.
double gradcheck_once(gradcheck *g, gradcheck_run *run, void *arg, bool backward);

#endif
