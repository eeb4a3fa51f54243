/*
 * decoder.h - the Llama-shaped decoder (spec: decoders.md 1).
 *
 *   blocks with RMSNorm, rotary positions, grouped heads, SwiGLU; norm_final; logits = x Whead^T, where the
 *   head may be the token table itself (tied).
 */
#ifndef PC_NETWORKS_DECODER_H
#define PC_NETWORKS_DECODER_H

#include "model/layers/transformer.h"

typedef struct pc_decoder_config {
    int64_t V, C, L, H, G, D, F;
    int64_t T; // longest sequence: rows of the rotary tables
    double eps;
    pc_rope_config rope;
    bool qkv_bias, qk_norm, tied;
    bool rope_2d; // rows of an image turn with their column and row (pc_rope)
    int64_t mrope
        [PC_ROPE_AXES]; // frequencies that turn with frame, row, column; all 0: one position a row
    int64_t window;     // sliding window, 0: none
    double
        std; // initial standard deviation (0.02 in published families); 0: each matrix by its size
    pc_recompute recompute;
} pc_decoder_config;

typedef struct pc_decoder {
    pc_decoder_config config;
    pc_weight tokens; // (V,C)
    pc_transformer blocks;
    pc_norm norm_final;
    pc_weight head; // (V,C); absent when tied
    pc_rope rope;   // (T,D/2), bound with pc_decoder_tables
} pc_decoder;

typedef struct pc_decoder_kept {
    pc_tensor x, hidden, normed;
    pc_transformer_kept blocks;
    pc_norm_kept norm_final;
    pc_seq seq;
} pc_decoder_kept;

void pc_decoder_params(pc_params *p, pc_decoder *l, const pc_decoder_config *c);
void pc_decoder_close(pc_decoder *l);
pc_status pc_decoder_validate(const pc_decoder_config *c);
void pc_decoder_tables(pc_decoder *l, pc_arena *a, pc_dtype t);

// x (N,C) embedded rows -> normed rows (N,C). seq.rope is filled from the tables.
pc_tensor pc_decoder_forward(pc_ctx *ctx, pc_decoder_kept *kept, const pc_decoder *l, pc_tensor x,
                             const pc_seq *seq, pc_kv *kv);
void pc_decoder_backward(pc_ctx *ctx, pc_tensor dx, pc_decoder *l, const pc_decoder_kept *kept,
                         pc_tensor dnormed);

// The matrix of the head (its own or the token table), and logits (M,V) of chosen normed rows (M,C).
const pc_weight *pc_decoder_head(const pc_decoder *l);
void pc_decoder_logits(pc_ctx *ctx, pc_tensor logits, const pc_decoder *l, pc_tensor rows);

bool pc_decoder_axes(const pc_decoder_config *c); // rows have several positions
bool pc_decoder_trains(const pc_decoder *l);      // some parameter of it has a gradient

#endif
