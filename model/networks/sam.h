/*
 * sam.h - a vision tower for large images: most blocks look inside windows, a few at everything (SAM's ViT;
 * spec: deepseek-vl.md 3).
 *
 *   stem      patches p x p, one linear; + positions, row p to patch p
 *   block     h = x + crop(attn(windows(norm1(x)))) Wo^T + bo;   x = h + mlp(norm2(h))
 *   attn      softmax(scale q.k + q.Rh[line of q - line of k] + q.Rw[column of q - column of k]) v
 *
 * The grid of patches is cut into windows of window x window, padded at the bottom and the right where it does not
 * divide. A padded place is a key like any other: its input is zero, so its query, key and value are the bias.
 * What it makes is dropped. In blocks whose bit is set in `globals` the whole grid is one window.
 *
 * Rows: image b owns rows [b P, (b+1) P), P = (image_size / patch)^2. No dropout and no head.
 */
#ifndef PC_NETWORKS_SAM_H
#define PC_NETWORKS_SAM_H

#include "model/layers/transformer.h"

#define PC_SAM_MAX 62 // blocks: `globals` is a set of their numbers
#define PC_SAM_SIDE_MAX                                                                            \
    4096 // patches along a side, windows' padding included: rows are counted in 32 bits

typedef struct pc_sam_config {
    int64_t image_size, patch, C, H, F, L; // D = C / H
    int64_t window;  // patches along a window's side; 0: every block is global
    int64_t globals; // bit i: block i is global
    int64_t middle;  // the block whose output is handed out beside the last one's
    int64_t neck;    // channels behind the neck (hybrid.h)
    pc_act act;
    double eps;
    bool qkv_bias, positions, relative; // positions and relative: learned tables of either kind
    pc_recompute recompute;
} pc_sam_config;

typedef struct pc_sam_block {
    pc_norm norm1, norm2;
    pc_linear qkv, out;
    pc_weight rel_h, rel_w; // (2 side - 1, D), side of a window or of the grid
    pc_mlp mlp;
} pc_sam_block;

typedef struct pc_sam_block_kept {
    pc_tensor x, n1, h, n2; // input, norm1(x), after attention, norm2(h): (N,C)
    pc_tensor qkv, o, lse;  // (M,3C), (M,C), (M,H): M rows, those of the padded windows
    pc_tensor rh, rw;       // (M,H,side)
    pc_tensor crop;         // (N,C): o without padding; o itself in a global block
    pc_norm_kept norm1, norm2;
    pc_mlp_kept mlp;
} pc_sam_block_kept;

typedef struct pc_sam {
    pc_sam_config config;
    pc_linear stem;
    pc_weight positions;               // (P,C)
    pc_sam_block *blocks;              // (L), malloc'ed by _params
    struct pc_sam_block_kept *planned; // (L), likewise: what dry runs keep
} pc_sam;

// How rows lie in windows; shared by all blocks.
typedef struct pc_sam_windows {
    int64_t side; // of a window
    pc_mask mask; // every place of a window sees its window
    pc_tensor
        place; // i32 (N): where a row lies among the windows' M; absent where windows are the grid
    pc_tensor padding; // i32 (M): 0 where a place is padding, -1 elsewhere; absent without padding
    int64_t M;
} pc_sam_windows;

typedef struct pc_sam_kept {
    int64_t B;
    pc_conv conv;
    pc_tensor cols, index; // unfolded patches; i32 (N), patch of each row
    pc_sam_windows windows, grid;
    pc_sam_block_kept *blocks; // (L), from ctx->act
} pc_sam_kept;

// Lists "stem", "positions", "blocks.i.{norm1,attn.{qkv,out,rel_h,rel_w},norm2,mlp}". Close frees `blocks`.
void pc_sam_params(pc_params *p, pc_sam *l, const pc_sam_config *c);
void pc_sam_close(pc_sam *l);
pc_status pc_sam_validate(const pc_sam_config *c);
int64_t pc_sam_side(const pc_sam_config *c); // patches along a side of the image

// pixels (B,3,S,S). last and middle: rows (B*P,C) after the last block and after block `middle`, fresh from ctx->act
// (one tensor where middle is the last). Taps: "hidden_states.i", i = 0 .. L.
void pc_sam_forward(pc_ctx *ctx, pc_tensor *last, pc_tensor *middle, pc_sam_kept *kept,
                    const pc_sam *l, pc_tensor pixels);
// dlast is consumed. dmiddle is added at its block; absent where nothing comes from there.
void pc_sam_backward(pc_ctx *ctx, pc_sam *l, const pc_sam_kept *kept, pc_tensor dlast,
                     pc_tensor dmiddle);
bool pc_sam_trains(const pc_sam *l); // some parameter of it has a gradient

#endif
