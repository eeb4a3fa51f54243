/*
 * text.h - the text tower of a two-tower model (spec: clip.md 2, 7).
 *
 *   x = token_table[ids] + positions[pos];  transformer (causal or bidirectional);  norm_final;
 *   pooled row (end-of-text, or the last) -> proj (E,C), with bias in SigLIP
 */
#ifndef PC_NETWORKS_TEXT_H
#define PC_NETWORKS_TEXT_H

#include "model/layers/transformer.h"

typedef enum pc_text_pool {
    PC_POOL_EOT,     // first position whose id is eot_id
    PC_POOL_LARGEST, // position of the largest id
    PC_POOL_LAST,    // last position of the sequence, padding included
} pc_text_pool;

typedef struct pc_text_config {
    int64_t V, T, C, H, F, L, E; // T: context length
    bool causal, proj_bias, qk_norm;
    pc_act act;
    double eps;
    pc_text_pool pool;
    int64_t eot_id, pad_id; // pad_id < 0: texts are not padded
    bool pad_to_context;    // SigLIP: texts are always filled up to T with pad_id
    pc_recompute recompute;
} pc_text_config;

typedef struct pc_text {
    pc_text_config config;
    pc_weight tokens, positions; // (V,C), (T,C)
    pc_transformer blocks;
    pc_norm norm_final;
    pc_linear proj;
} pc_text;

// B texts, rows one after the other.
typedef struct pc_text_batch {
    pc_tensor ids, pos; // i32 (N)
    pc_mask mask;
    pc_tensor pooled; // i32 (B): the row that stands for each text
} pc_text_batch;

typedef struct pc_text_kept {
    pc_tensor x, normed, rows;
    pc_seq seq;
    pc_transformer_kept blocks;
    pc_tensor hidden;
    pc_norm_kept norm_final;
} pc_text_kept;

void pc_text_params(pc_params *p, pc_text *l, const pc_text_config *c);
void pc_text_close(pc_text *l);
pc_status pc_text_validate(const pc_text_config *c);
pc_tensor pc_text_forward(pc_ctx *ctx, pc_text_kept *kept, const pc_text *l,
                          const pc_text_batch *b); // (B,E)
void pc_text_backward(pc_ctx *ctx, pc_text *l, const pc_text_kept *kept, const pc_text_batch *b,
                      pc_tensor dy);

// Rows, positions, mask and pooled rows for B texts of given lengths (ids as encoded, special tokens
// included; lengths[b] <= T). With pad_to_context every text takes T rows. Memory from `a`.
void pc_text_batch_build(pc_text_batch *out, pc_arena *a, const pc_text_config *c,
                         const int32_t *const *ids, const int64_t *lengths, int64_t B);

bool pc_text_trains(const pc_text *l); // some parameter of it has a gradient

#endif
