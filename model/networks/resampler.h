/*
 * resampler.h - a fixed number of learned queries read an image's rows (Qwen-VL; spec: qwen-vl.md 1).
 *
 *   k     = norm_kv(x Wkv^T)                        x (B P, I) rows of the tower; Wkv (C,I), no bias
 *   q     = norm_q(query)                           query (Q,C), learned
 *   o     = attention of (q + places) Wq^T over (k + places') Wk^T and k Wv^T, H heads; biases on all
 *   y     = norm_post(o Wo^T + bo) P                (B Q, C); P (C,C) as files have it, not transposed
 *
 * No residual and no MLP. `places` (Q,C) are sines and cosines of a square grid's lines and columns, which files store
 * and nothing trains; places' is the same table resized to the grid of the P rows (bicubic), or itself.
 *
 * Parameters: "projector.{kv, norm_kv, query, norm_q, places, attn.{q,k,v,out}, norm_post, proj}".
 */
#ifndef PC_NETWORKS_RESAMPLER_H
#define PC_NETWORKS_RESAMPLER_H

#include "model/layers/linear.h"
#include "model/layers/norm.h"

typedef struct pc_resampler_config {
    int64_t Q, C, H, I; // queries and width, heads, width of the tower's rows; Q a square number
    double eps;
} pc_resampler_config;

typedef struct pc_resampler {
    pc_resampler_config config;
    pc_linear kv, q, k, v, o;
    pc_norm norm_kv, norm_q, norm_post;
    pc_weight query, places; // (Q,C)
    pc_weight proj;          // (C,C), P
} pc_resampler;

typedef struct pc_resampler_kept {
    int64_t P;                   // rows of an image
    pc_tensor x, raw, kv, keyed; // (BP,I); (BP,C) before and after norm_kv; with places
    pc_tensor normed, placed, q1,
        q; // (Q,C): norm_q(query), with places, projected; (BQ,C) for every image
    pc_tensor k, v, o, lse, read,
        post;              // (BP,C) twice; (BQ,C); (BQ,H); (BQ,C) before and after norm_post
    pc_tensor query_index; // i32 (BQ): query of each row
    pc_tensor turned;      // (C,C): P transposed, as a product reads it
    pc_norm_kept norm_kv, norm_q, norm_post;
    pc_mask mask;
} pc_resampler_kept;

void pc_resampler_params(pc_params *p, pc_resampler *l, const pc_resampler_config *c);
// `rows`: of an image as the tower gives it.
pc_status pc_resampler_validate(const pc_resampler_config *c, int64_t rows);

// x (B P, I), P rows of each image, a square number -> (B Q, C).
pc_tensor pc_resampler_forward(pc_ctx *ctx, pc_resampler_kept *kept, const pc_resampler *l,
                               pc_tensor x, int64_t P);
// dx (B P, I) overwritten; may be absent.
void pc_resampler_backward(pc_ctx *ctx, pc_tensor dx, pc_resampler *l,
                           const pc_resampler_kept *kept, pc_tensor dy);

bool pc_resampler_trains(const pc_resampler *l); // some parameter of it has a gradient

#endif
