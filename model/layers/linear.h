/*
 * linear.h - y = x W^T + b, the one place where a weight matrix meets its input.
 *
 * Bias, low-rank adapters and quantised bases belong here and nowhere else: every projection of every
 * layer goes through these calls.
 *   forward   y = x W^T + b + r        x (N,I), W (O,I), b (O)?, r (N,O)? residual
 *   backward  dx = dy W, dW += dy^T x, db += sum_n dy
 *
 * Low-rank adapters (Hu et al. 2021, "LoRA"; listed by adapters.h), each on some rows of W:
 *   forward   u = s drop(x) A^T,  y[:,rows] += u B^T          A (r,I), B (rows,r), u (N,r)
 *   backward  dB += dy[:,rows]^T u,  du = s dy[:,rows] B,  dA += du^T drop(x),  dx += drop'(du A)
 * u and the mask are made again in backward (N r numbers, and a function of ctx->dropout_key): nothing is kept.
 * A frozen W has no gradient, and none is formed for the adapters' sake.
 *
 * A step's gradient of W is not zeroed first: pc_grads_begin says that it holds nothing, the first backward that reaches
 * a row writes it, those that follow add to it, and pc_grads_end zeroes what none has reached. Only pc_linear_backward
 * touches it in between. Other gradients (biases, gains, tables, adapters) are zeroed by pc_grads_begin.
 *
 * In inference W may lie in a file, in its type (ops.h), and in pieces: published models have q, k and v apart. Then
 * weight.w is absent, and products go piece by piece.
 */
#ifndef PC_LAYERS_LINEAR_H
#define PC_LAYERS_LINEAR_H

#include "model/layers/params.h"

typedef struct pc_adapter {
    pc_weight A, B;    // (r,I), (rows,r)
    int64_t row, rows; // of W
    int64_t r;
    double scale;            // s: alpha / r, or alpha / sqrt(r)
    int number;              // in the model's list; its masks follow from it
    struct pc_adapter *next; // on the same linear
} pc_adapter;

#define PC_PIECES 4

typedef struct pc_linear {
    pc_weight weight; // (O,I)
    pc_weight bias;   // (O), absent without bias
    int64_t I, O;
    bool has_bias;
    int64_t first; // row of the listed matrix that output 0 is: not 0 in pc_linear_outputs
    pc_tensor piece[PC_PIECES]; // rows of W, one piece after the other; none: weight.w
    int pieces;
    pc_adapter *adapters; // NULL: none. Owned by pc_adapters
    // Rows of weight.g, [from, to), that hold nothing yet: of the listed linear, whose outputs others may be.
    int64_t fresh_from, fresh_to;
    struct pc_linear *listed; // NULL: itself
} pc_linear;

// Lists "name.weight" (and "name.bias"): normal with std, bias zero.
void pc_linear_params(pc_params *p, pc_linear *l, const char *name, int64_t I, int64_t O, bool bias,
                      double std);

void pc_linear_forward(pc_ctx *ctx, pc_tensor y, const pc_linear *l, pc_tensor x, pc_tensor r);
// z = x W^T + b, a = f(z), in one pass; z is kept for pc_linear_act_backward, in whatever form that takes it (ops.h).
void pc_linear_act_forward(pc_ctx *ctx, pc_tensor a, pc_tensor z, const pc_linear *l, pc_tensor x,
                           pc_act kind);
// dz = da f'(z), z as forward left it; dz may be da. pc_linear_backward follows.
void pc_linear_act_backward(pc_ctx *ctx, pc_tensor dz, const pc_linear *l, pc_tensor da,
                            pc_tensor z, pc_act kind);
// Both in one: the bias's gradient is summed as dz is made.
void pc_linear_act_backward_all(pc_ctx *ctx, pc_tensor dx, pc_tensor dz, pc_linear *l, pc_tensor da,
                                pc_tensor z, pc_tensor x, pc_act kind);
// dx may be absent. Nothing is computed when no gradient is wanted.
void pc_linear_backward(pc_ctx *ctx, pc_tensor dx, pc_linear *l, pc_tensor dy, pc_tensor x);

// Outputs [begin, end) of it, as a linear of its own on the same numbers: the queries of a fused projection.
pc_linear pc_linear_outputs(const pc_linear *l, int64_t begin, int64_t end);

// Binds a parameter that stays (pc_param.stays) to numbers that lie elsewhere: rows one piece after the other, each
// dense, of any type. Only a linear's matrix takes more than one piece.
void pc_param_place(pc_param *p, const pc_tensor *piece, int pieces);

// The gradients of a step, around its backward passes: none holds anything yet; then all hold their sums.
void pc_grads_begin(pc_ctx *ctx, pc_params *p);
void pc_grads_end(pc_ctx *ctx, pc_params *p);

// Whether any parameter of it has a gradient.
bool pc_linear_trains(const pc_linear *l);

#endif
