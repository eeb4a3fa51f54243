/*
 * tiny.h - the parameter list of the native seed: two matrices and a vector, with moments.
 */
#ifndef PC_TESTS_FUZZ_TINY_H
#define PC_TESTS_FUZZ_TINY_H

#include "model/layers/params.h"

typedef struct tiny {
    pc_params params;
    pc_weight w[3];
    pc_arena weights, moments;
} tiny;

void tiny_open(tiny *t);
void tiny_close(tiny *t);

#endif
