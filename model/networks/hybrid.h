/*
 * hybrid.h - the second pair of eyes: a SAM tower for large images, brought to the grid of the low-resolution tower,
 * and the projector that joins the two (spec: deepseek-vl.md 3, 4).
 *
 *   m = neck(last) + alpha neck_middle(middle)      rows of the SAM tower's last and middle block
 *   f = down.1(down.0(bilinear(m, 4g x 4g)))        g x g rows an image, as the other tower gives
 *   neck      y = LN(conv3x3(LN(conv1x1(x)))), over channels at every place; no biases on the convolutions
 *   down.i    conv 3x3, step 2, pad 1, no bias, twice the channels; nothing between them
 *
 * The published code sends both necks through the enlarging and the convolutions and adds behind them; as these are
 * linear and shared, adding before is the same function at half the work.
 *
 *   projector z = [f Wh^T + bh, s Wl^T + bl], halves of C columns each; then depth - 1 times x = act(z) W^T + b
 *
 * with s the rows of the low-resolution tower.
 */
#ifndef PC_NETWORKS_HYBRID_H
#define PC_NETWORKS_HYBRID_H

#include "model/networks/projector.h"
#include "model/networks/sam.h"

typedef struct pc_neck {
    pc_linear conv1, conv2; // (O,C), (O,9 O)
    pc_norm norm1, norm2;
} pc_neck;

// A 3x3 convolution of rows: what its backward needs.
typedef struct pc_conv3_kept {
    pc_conv conv;
    pc_tensor cols;
} pc_conv3_kept;

typedef struct pc_neck_kept {
    pc_tensor x, c1, n1, c2; // (N,C), then (N,O) each
    pc_norm_kept norm1, norm2;
    pc_conv3_kept conv2;
} pc_neck_kept;

typedef struct pc_hybrid {
    int64_t grid; // g
    pc_projector_config config;
    pc_sam sam;
    pc_neck neck, neck_middle;
    pc_linear down[2]; // (2 O,9 O), (4 O,18 O)
    pc_weight alpha;   // (1)
    pc_linear high, low, linear[PC_PROJECTOR_MAX];
} pc_hybrid;

typedef struct pc_hybrid_kept {
    pc_sam_kept sam;
    pc_tensor last, middle; // rows of the SAM tower (N,C)
    pc_neck_kept neck, neck_middle;
    pc_tensor side; // (N,O): neck_middle's rows
    pc_conv3_kept down[2];
    pc_tensor f, s;                                     // the projector's two inputs
    pc_tensor z[PC_PROJECTOR_MAX], a[PC_PROJECTOR_MAX]; // before and after each activation
} pc_hybrid_kept;

// Lists "vision.high.*" and "projector.{high,low,linear.i}". `grid` is that of the low-resolution tower; c->in its
// width, c->depth counts the halves as one.
void pc_hybrid_params(pc_params *p, pc_hybrid *l, const pc_sam_config *sam,
                      const pc_projector_config *c, int64_t grid);
void pc_hybrid_close(pc_hybrid *l);
pc_status pc_hybrid_validate(const pc_sam_config *sam, const pc_projector_config *c);
int64_t pc_hybrid_width(const pc_sam_config *sam); // columns of f: 4 neck

// pixels (B,3,S,S) to f (B g g, 4 O). A SAM tower of which nothing is trained runs as in inference.
pc_tensor pc_hybrid_high_forward(pc_ctx *ctx, pc_hybrid_kept *kept, const pc_hybrid *l,
                                 pc_tensor pixels);
void pc_hybrid_high_backward(pc_ctx *ctx, pc_hybrid *l, const pc_hybrid_kept *kept, pc_tensor df);
bool pc_hybrid_high_trains(const pc_hybrid *l);

// f and s (N, ...) to rows (N,C). Backward: df, ds may be absent.
pc_tensor pc_hybrid_join_forward(pc_ctx *ctx, pc_hybrid_kept *kept, const pc_hybrid *l, pc_tensor f,
                                 pc_tensor s);
void pc_hybrid_join_backward(pc_ctx *ctx, pc_tensor df, pc_tensor ds, pc_hybrid *l,
                             const pc_hybrid_kept *kept, pc_tensor dy);
bool pc_hybrid_join_trains(const pc_hybrid *l);

#endif
