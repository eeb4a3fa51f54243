/*
 * tiny.c - see tiny.h.
 */
#include "tests/fuzz/tiny.h"

#include <stdlib.h>
#include <string.h>

void tiny_open(tiny *t)
{
    memset(t, 0, sizeof *t);
    pc_param_add(&t->params, &t->w[0], "a.weight", PC_INIT_ONE, 0.0, PC_DIMS(2, 3));
    pc_param_add(&t->params, &t->w[1], "a.bias", PC_INIT_ZERO, 0.0, PC_DIMS(2));
    pc_param_add(&t->params, &t->w[2], "b.weight", PC_INIT_NORMAL, 1.0, PC_DIMS(4, 1, 2));
    if (pc_params_end(&t->params) || pc_arena_open(&t->weights, "weights", 4096) ||
        pc_arena_open(&t->moments, "moments", 4096))
        abort();
    pc_params_train(&t->params, "", true);
    pc_params_bind_weights(&t->params, &t->weights, PC_F32);
    pc_params_bind_moments(&t->params, &t->moments, PC_F32);
    pc_params_init(&t->params, 1);
}

void tiny_close(tiny *t)
{
    pc_params_close(&t->params);
    pc_arena_close(&t->weights);
    pc_arena_close(&t->moments);
}
