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
 * The CPU deals matrices out to threads by their cost; each is computed by one thread, so the result does not
 * depend on how many there are. A device takes matrices of one shape together. There X is of the matrices' type: the
 * products of a run in bf16 are made in bf16.
 */
#ifndef PC_TRAIN_MUON_H
#define PC_TRAIN_MUON_H

#include "model/ops/backend.h"
#include "train/spans.h"

typedef struct muon_matrix {
    int param;
    int64_t row, rows, cols; // rows [row, row + rows) of the parameter
    int64_t first;           // as a span has it
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
    const pc_memory *memory; // of a device, or NULL
    pc_dtype real;           // of X
    pc_arena room;           // a device's table
    pc_piece *table;         // (count); made by the first step
    bool made;
} muon;

typedef struct muon_hyper {
    double lr, beta, weight_decay;
} muon_hyper;

// Whether a trainable parameter is Muon's.
bool muon_takes(const pc_param *p);

// Matrices of the trainable hidden parameters, whose moments (m) must be bound before the first step. real: of X.
pc_status muon_open(muon *u, pc_params *p, pc_pool *pool, const pc_backend *backend, pc_dtype real);
void muon_close(muon *u); // a zeroed one is fine
// As the gate lets through (ops.h).
void muon_step(muon *u, const muon_hyper *h, pc_tensor gate, const pc_rng_key *rounding);

// Bytes of scratch a thread takes, or the device: for the plan.
size_t muon_bytes(const pc_params *p, const pc_memory *memory, pc_dtype real);

// X (rows, cols) becomes nearly orthogonal; scratch from ctx. For the tests too.
void muon_orthogonal(pc_ctx *ctx, pc_tensor X);

#endif
