/*
 * transformer.h - one stack of pre-norm blocks: its config makes it a ViT, a text tower or a decoder.
 *
 *   block     h = x + dropout(attn(norm1(x)));   x = h + dropout(mlp(norm2(h)))
 *   stack     x_0 = input,  x_l = block_l(x_{l-1}),  output x_stop (norm_final is the network's to apply)
 *
 * Shapes: x (N,C), all sequences' rows one after the other. `stop` runs the first blocks only: LLaVA
 * reads the input of the last one. Recompute `block` keeps a block's input alone and runs the block
 * forward again in backward.
 *
 * The layers, lowest first: params.h the list of parameters, taps.h activations by name, mask.h who sees whom,
 * linear.h, norm.h, attention.h (and rotary tables), mlp.h, and this file.
 */
#ifndef PC_LAYERS_TRANSFORMER_H
#define PC_LAYERS_TRANSFORMER_H

#include "model/layers/attention.h"
#include "model/layers/mlp.h"

typedef enum pc_recompute { PC_RECOMPUTE_NONE, PC_RECOMPUTE_BLOCK } pc_recompute;

typedef struct pc_transformer_config {
    int64_t L, C, H, G, D, F;
    pc_norm_kind norm;
    double eps;
    bool swiglu;
    pc_act act; // of the GELU-kind MLP
    bool qkv_bias, out_bias, mlp_bias, qk_norm;
    double std, out_std, fc_std; // initial standard deviations: input projections, output ones, fc1
    pc_recompute recompute;
} pc_transformer_config;

typedef struct pc_block {
    pc_norm norm1, norm2;
    pc_attention attn;
    pc_mlp mlp;
} pc_block;

typedef struct pc_block_kept {
    pc_tensor x, n1, h, n2; // input, norm1(x), after attention, norm2(h): (N,C) each
    pc_norm_kept norm1, norm2;
    pc_attention_kept attn;
    pc_mlp_kept mlp;
    pc_rng_key drop_attn, drop_mlp; // the dropout masks' keys
} pc_block_kept;

typedef struct pc_transformer {
    pc_transformer_config config;
    pc_block *blocks;              // (L), malloc'ed by _params
    struct pc_block_kept *planned; // (L), likewise: what dry runs keep, as dry arenas hold nothing
} pc_transformer;

typedef struct pc_transformer_kept {
    pc_block_kept *blocks; // (stop), from ctx->act
    int64_t stop;
    bool reads; // the last block made the rows of `read` alone
    pc_read read;
} pc_transformer_kept;

// Lists "blocks.i.{norm1,attn.qkv,attn.out,norm2,mlp.*}". Close frees `blocks`.
void pc_transformer_params(pc_params *p, pc_transformer *l, const pc_transformer_config *c);
void pc_transformer_close(pc_transformer *l);

// x is read and kept (training); the output is a fresh tensor from ctx->act. kv: one pc_kv per layer,
// or NULL. In inference (no grad_ops) each block's activations are released before the next. Taps:
// "hidden_states.l" for l = 0 .. stop. `read` (NULL: every row): the output is these rows, (M,C), and the last
// block works on no others; not with stop 0.
pc_tensor pc_transformer_forward(pc_ctx *ctx, pc_transformer_kept *kept, const pc_transformer *l,
                                 pc_tensor x, const pc_seq *seq, const pc_read *read, pc_kv *kv,
                                 int64_t stop);
// dx (N,C) overwritten; may be absent when nothing below is trained and no block is: dy is consumed.
// Blocks below the first with a trainable parameter are skipped unless dx is wanted. dx may be dy, but for a
// forward with `read`, where dy is (M,C).
void pc_transformer_backward(pc_ctx *ctx, pc_tensor dx, pc_transformer *l,
                             const pc_transformer_kept *kept, pc_tensor dy, const pc_seq *seq);

// Whether any parameter of the first `stop` blocks has a gradient.
bool pc_transformer_trains(const pc_transformer *l, int64_t stop);

#endif
