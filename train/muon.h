/*
 * muon.h - Muon: orthogonalised momentum for hidden matrices (Jordan et al. 2024; scaled as by Liu et al. 2025).
 *
 *   m <- b1 m + (1 - b1) g            u = (1 - b1) g + b1 m          the look-ahead, with the new m
 *   X <- u / (|u|_F + 1e-7)           5 times:  A = X X^T,  X <- a X + (b A + c A A) X
 *   W <- W - lr (0.2 sqrt(max(rows, cols)) X + wd W)
 *
 * a, b, c = 3.4445, -4.7750, 2.0315: the quintic that brings every singular value near 1. For tall matrices the
 * smaller product X^T X is taken, which gives the same X. Everything that is no hidden matrix (pc_param.hidden)
 * is AdamW's. Fused matrices are taken apart by rows (pc_param.parts): q, k and v; gate and up.
 *
 * Matrices are dealt out to threads by their cost; each is computed by one thread, so the result does not
 * depend on how many there are.
 */
#ifndef PC_TRAIN_MUON_H
#define PC_TRAIN_MUON_H

#include "model/layers/params.h"

typedef struct muon_matrix {
    int param;
    int64_t row, rows, cols; // rows [row, row + rows) of the parameter
    double cost;             // multiplications
} muon_matrix;

typedef struct muon {
    pc_params *params;
    muon_matrix *list; // thread i's are [begin[i], begin[i + 1])
    int count;
    int *begin; // (threads + 1)
    int threads;
    pc_pool *pool; // not owned
    pc_ctx *ctx;   // (threads) each without a pool
    pc_arena *scratch;
} muon;

typedef struct muon_hyper {
    double lr, beta, weight_decay, grad_scale;
} muon_hyper;

// Whether a trainable parameter is Muon's.
bool muon_takes(const pc_param *p);

// Matrices of the trainable hidden parameters, whose moments (m) must be bound before the first step.
pc_status muon_open(muon *u, pc_params *p, pc_pool *pool);
void muon_close(muon *u); // a zeroed one is fine
void muon_step(muon *u, const muon_hyper *h);

// Bytes of scratch a thread takes: for the plan.
size_t muon_bytes(const pc_params *p);

// X (rows, cols) becomes nearly orthogonal; scratch from ctx. For the tests too.
void muon_orthogonal(pc_ctx *ctx, pc_tensor X);

#endif
