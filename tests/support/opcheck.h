/*
 * opcheck.h - one operation at a time: derivatives, precisions, instruction sets, mutations.
 *
 * A case builds tensors (set-up) and computes a scalar from them (run) through ctx->ops and, with
 * `backward`, ctx->grad_ops. The same case is then used four ways:
 *   derivative   in double, against central differences (gradcheck.h)
 *   precision    in float on every instruction set and on 1 and 3 threads, against double: the scalar
 *                and every gradient; and twice in a row, bit for bit
 *   guards       what lies between strided rows is untouched
 *   mutation     with a backward broken on purpose, the derivative check must fail
 *
 * Numbers are rounded to float where they are drawn, so that both precisions see the same.
 */
#ifndef PC_TESTS_OPCHECK_H
#define PC_TESTS_OPCHECK_H

#include "tests/support/gradcheck.h"

typedef struct opcheck {
    gradcheck g;
    pc_dtype real;
} opcheck;

typedef struct op_case {
    const char *op, *label;
    void *(*setup)(opcheck *o, const int64_t *arg);
    gradcheck_run *run;
    double derivative; // tolerance; 0: too large for differences, precision only
    double precision;  // tolerance of float against double
    int64_t arg[8];    // for the set-up: sizes, flags
} op_case;

// `install` puts a broken backward of `op` into a copy of the table; it may call opcheck_sound's.
typedef struct op_mutation {
    const char *op, *what;
    void (*install)(pc_grad_ops *ops);
} op_mutation;

const pc_grad_ops *opcheck_sound(void);

// Runs everything; the exit status of a test program.
int opcheck_main(const op_case *cases, int case_count, const op_mutation *mutations,
                 int mutation_count);

// For set-ups. `pad` elements of guard lie behind every row of an activation of rank 2 or more.
void *op_state(opcheck *o, size_t bytes); // zeroed, lives as long as the case
typedef struct op_var {
    pc_tensor x, g;
} op_var;
op_var op_input(opcheck *o, const char *name, double std, int64_t pad, int rank,
                const int64_t *dim);
op_var op_param(opcheck *o, const char *name, double mean, double std, int rank,
                const int64_t *dim);
pc_tensor op_const(opcheck *o, double std, int64_t pad, int rank, const int64_t *dim);
pc_tensor op_index(opcheck *o, const int32_t *value, int64_t n);
uint64_t op_draw(opcheck *o, uint64_t below); // an integer in [0, below)

// For runs.
pc_tensor op_alloc(pc_ctx *ctx, int64_t pad, int rank, const int64_t *dim); // strided, of ctx->real
double op_dot(pc_tensor y, pc_tensor w); // sum y w in double, whatever the type and strides
void op_scale(pc_tensor x, double factor);
double op_get(pc_tensor x, int64_t i); // element i, row by row
void op_set(pc_tensor x, int64_t i, double value);

// A mutation's installer: install_FUNCTION puts FUNCTION into a slot.
#define OP_INSTALL(slot, function)                                                                 \
    static void install_##function(pc_grad_ops *ops)                                               \
    {                                                                                              \
        ops->slot = function;                                                                      \
    }

#endif
