/*
 * qwen2_vision.h - the tower of Qwen2-VL and its merger: images of any size as lists of patches (spec: qwen-vl.md 5).
 *
 *   rows     x_0 = cols Wpatch^T                 cols (N, 3 T p p): a patch of T frames, as given
 *   places   queries and keys turn with the patch's line (first half of the frequencies) and its column
 *   blocks   LayerNorm; attention among the patches of one frame of one image; activation between two linears
 *   merger   y = W2 gelu(W1 [norm(x) of the m m patches of a block, side by side] + b1) + b2       (N / m^2, O)
 *
 * Order of rows: image by image, frame by frame, then blocks of m x m patches line by line, and inside a block
 * line by line again: what the merger joins stands side by side.
 *
 * Of pc_vision_config: C, H, F, L, patch, frames (T), theta, act, eps, recompute. Parameters are listed as
 * "vision.stem.0", "vision.blocks.i" and "projector.norm", "projector.linear.{0,1}".
 */
#ifndef PC_NETWORKS_QWEN2_VISION_H
#define PC_NETWORKS_QWEN2_VISION_H

#include "model/networks/geometry.h"
#include "model/networks/vision.h"

// Patches on a side of an image, at most: rows of the rotary table.
#define PC_QWEN2_SIDE_MAX 4096

typedef struct pc_qwen2_vision {
    pc_vision_config config;
    int64_t m, O; // patches on a side of what becomes one row; width of the decoder's rows
    pc_linear stem;
    pc_transformer blocks;
    pc_norm merge_norm;
    pc_linear merge[2]; // (m^2 C, m^2 C), (O, m^2 C)
    pc_rope rope;       // (PC_QWEN2_SIDE_MAX, D/4), bound with pc_qwen2_vision_tables
} pc_qwen2_vision;

typedef struct pc_qwen2_vision_kept {
    pc_tensor cols, tokens, hidden; // (N,3Tpp), (N,C), (N,C)
    pc_seq seq;
    pc_transformer_kept blocks;
    // merger
    pc_tensor merge_in, normed, z, a; // (N,C) twice, (N/m^2, m^2 C) twice
    pc_norm_kept norm;
} pc_qwen2_vision_kept;

void pc_qwen2_vision_params(pc_params *p, pc_qwen2_vision *l, const pc_vision_config *c, int64_t m,
                            int64_t O);
void pc_qwen2_vision_close(pc_qwen2_vision *l);
pc_status pc_qwen2_vision_validate(const pc_vision_config *c, int64_t m);
void pc_qwen2_vision_tables(pc_qwen2_vision *l, pc_arena *a, pc_dtype t);
int64_t pc_qwen2_patch_width(const pc_vision_config *c); // numbers in a patch: 3 T p p

// cols (N, 3Tpp), N the patches of all images (t, h, w of their geometry) -> hidden rows (N,C).
pc_tensor pc_qwen2_vision_forward(pc_ctx *ctx, pc_qwen2_vision_kept *kept, const pc_qwen2_vision *l,
                                  pc_tensor cols, const pc_image_geometry *image, int64_t images);
// dhidden is consumed.
void pc_qwen2_vision_backward(pc_ctx *ctx, pc_qwen2_vision *l, const pc_qwen2_vision_kept *kept,
                              pc_tensor dhidden);

// hidden (N,C) -> features (N/m^2, O).
pc_tensor pc_qwen2_merge_forward(pc_ctx *ctx, pc_qwen2_vision_kept *kept, const pc_qwen2_vision *l,
                                 pc_tensor hidden);
// dhidden (N,C) overwritten; may be absent.
void pc_qwen2_merge_backward(pc_ctx *ctx, pc_tensor dhidden, pc_qwen2_vision *l,
                             const pc_qwen2_vision_kept *kept, pc_tensor dy);

// Whether any parameter of the tower (of the merger) has a gradient.
bool pc_qwen2_vision_trains(const pc_qwen2_vision *l);
bool pc_qwen2_merge_trains(const pc_qwen2_vision *l);

#endif
