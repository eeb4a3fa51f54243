/*
 * vision.h - the vision tower (spec: clip.md 1, 7).
 *
 *   stem      patch: unfold p x p patches, one linear.  conv: log2(p) convolutions 3x3 step 2 pad 1, an
 *             activation between them; channel counts stem_width * 2^i, the last one's C. They have biases
 *   tokens    [class,] patches + learned positions; norm_pre where the config has one
 *   blocks    transformer, bidirectional within an image
 *   head      none | class: norm_post on token 0, then proj (E,C) | map: norm_post on all tokens, one
 *             attention with a learned query, then a residual MLP (SigLIP) | mean: norm_post on the mean, proj
 *
 * Rows: image b owns rows [b*N1, (b+1)*N1), N1 = P + class_token.
 */
#ifndef PC_NETWORKS_VISION_H
#define PC_NETWORKS_VISION_H

#include "model/layers/transformer.h"

typedef enum pc_stem { PC_STEM_PATCH, PC_STEM_CONV } pc_stem;
typedef enum pc_vision_head {
    PC_HEAD_NONE,
    PC_HEAD_CLASS,
    PC_HEAD_MAP,
    PC_HEAD_MEAN
} pc_vision_head;

#define PC_STEM_MAX   5
#define PC_LAYERS_MAX 4 // hidden states of one pass that are read

typedef struct pc_vision_config {
    int64_t image_size, patch, C, H, F, L; // D = C / H; P = (image_size / patch)^2
    pc_stem stem;
    int64_t stem_width;
    bool patch_bias, class_token, pre_norm, qk_norm;
    bool post_norm; // norm_post is listed though no head uses it (a tower inside a published VLM)
    pc_act act;
    double eps;
    pc_vision_head head;
    int64_t E;      // joint embedding width of the head; map head: E = C
    int64_t head_F; // MLP width of the map head
    int64_t
        table; // side of the position table, in patches; 0: that of the image. Another is resized
    int64_t frames; // frames of a patch and base of its rotary frequencies: qwen2_vision.h alone
    double theta;
    pc_recompute recompute;
} pc_vision_config;

typedef struct pc_vision {
    pc_vision_config config;
    pc_linear stem[PC_STEM_MAX]; // "stem.i": one linear (patch), or the convolutions
    int stems;
    pc_weight class_token; // (1,C)
    pc_weight positions;   // (P + class_token, C), P of the table
    pc_norm norm_pre, norm_post;
    pc_transformer blocks;
    pc_linear proj;                   // class and mean heads: (E,C), no bias
    pc_weight probe;                  // map head: (1,C)
    pc_linear map_q, map_kv, map_out; // map head: (C,C), (2C,C), (C,C)
    pc_norm map_norm;
    pc_mlp map_mlp;
} pc_vision;

typedef struct pc_vision_kept {
    int64_t B, h, w; // images, grid
    pc_tensor cols[PC_STEM_MAX], stem_z[PC_STEM_MAX], stem_a[PC_STEM_MAX];
    pc_conv conv[PC_STEM_MAX];
    pc_tensor tokens, pre;                    // before and after norm_pre
    pc_tensor cls_ids, patch_rows, pos_index; // i32
    pc_norm_kept norm_pre;
    pc_seq seq;
    pc_transformer_kept blocks; // with several hidden states read: up to the first of them
    pc_transformer_kept more[PC_LAYERS_MAX - 1]; // from each of them to the next
    // head
    pc_tensor hidden, pooled_rows, post, head_index;
    pc_norm_kept norm_post;
    pc_tensor map_query, map_qp, map_kvp, map_o, map_lse, map_a, map_n;
    pc_norm_kept map_norm;
    pc_mlp_kept map_mlp;
    pc_mask map_mask;
} pc_vision_kept;

void pc_vision_params(pc_params *p, pc_vision *l, const pc_vision_config *c);
void pc_vision_close(pc_vision *l);
int64_t pc_vision_tokens(const pc_vision_config *c); // P + class_token
pc_status pc_vision_validate(const pc_vision_config *c);

// pixels (B,3,S,S), S a multiple of patch; another S than image_size needs resized positions, which
// happens here (resize_grid) when `interpolate` is set and is a broken promise otherwise.
// Returns hidden rows after `stop` blocks: (B*N1, C). A tower with a class head whose blocks all run makes the
// class tokens' rows alone in the last one and returns these, (B,C), unless activations are asked for by name.
pc_tensor pc_vision_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l, pc_tensor pixels,
                            int64_t stop, bool interpolate);
// dhidden, of the rows that forward returned, is consumed.
void pc_vision_backward(pc_ctx *ctx, pc_vision *l, const pc_vision_kept *kept, pc_tensor dhidden);

// The same after several numbers of blocks at once: out[i] after stops[i], which ascend. Not with a class head.
void pc_vision_forward_layers(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                              pc_tensor pixels, const int64_t *stops, int n, pc_tensor *out);
// d[i] is the gradient of out[i]; all are consumed.
void pc_vision_backward_layers(pc_ctx *ctx, pc_vision *l, const pc_vision_kept *kept,
                               const int64_t *stops, int n, const pc_tensor *d);

// The head on the rows that pc_vision_forward returned: (B,E).
pc_tensor pc_vision_head_forward(pc_ctx *ctx, pc_vision_kept *kept, const pc_vision *l,
                                 pc_tensor hidden);
// dhidden, of as many rows, overwritten.
void pc_vision_head_backward(pc_ctx *ctx, pc_tensor dhidden, pc_vision *l,
                             const pc_vision_kept *kept, pc_tensor dy);

// Whether anything that feeds hidden row `stop` has a gradient; whether anything of the head has.
bool pc_vision_trains(const pc_vision *l, int64_t stop);
bool pc_vision_head_trains(const pc_vision *l);

// The head's part of the list: called by pc_vision_params, inside the "vision." prefix.
void pc_vision_head_params(pc_params *p, pc_vision *l);

#endif
