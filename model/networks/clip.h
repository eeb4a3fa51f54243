/*
 * clip.h - the two-tower model: images and texts into one space (spec: clip.md 3, 6, 8).
 *
 *   u = normalise(vision(pixels)), v = normalise(text(ids)), S = exp(t) u v^T (+ b)
 *   softmax loss (CLIP) or sigmoid loss (SigLIP); t is the logarithm of the scale, clamped by the trainer
 *   to [0, ln 100] after each step.
 *
 * The loss couples all samples, so forward ends at embeddings, the loss works on the whole batch's, and
 * backward starts from their gradients: exact for batches larger than memory (two passes) and for replicas.
 */
#ifndef PC_NETWORKS_CLIP_H
#define PC_NETWORKS_CLIP_H

#include "model/networks/text.h"
#include "model/networks/vision.h"

typedef enum pc_contrast { PC_CONTRAST_SOFTMAX, PC_CONTRAST_SIGMOID } pc_contrast;

typedef struct pc_clip_config {
    pc_vision_config vision;
    pc_text_config text;
    pc_contrast loss;
    double init_scale, init_bias; // initial t and b: 2.6592 and 0, or ln 10 and -10
} pc_clip_config;

typedef struct pc_clip {
    pc_clip_config config;
    pc_vision vision;
    pc_text text;
    pc_weight logit_scale, logit_bias; // (1) each; the bias with the sigmoid loss only
} pc_clip;

typedef struct pc_clip_kept {
    pc_vision_kept vision;
    pc_text_kept text;
    pc_tensor image_inv, text_inv; // of the normalisation
    pc_tensor u, v;                // (B,E) unit rows
} pc_clip_kept;

void pc_clip_params(pc_params *p, pc_clip *l, const pc_clip_config *c);
void pc_clip_close(pc_clip *l);
pc_status pc_clip_validate(const pc_clip_config *c);

pc_tensor pc_clip_image_forward(pc_ctx *ctx, pc_clip_kept *kept, const pc_clip *l,
                                pc_tensor pixels);
pc_tensor pc_clip_text_forward(pc_ctx *ctx, pc_clip_kept *kept, const pc_clip *l,
                               const pc_text_batch *b);
void pc_clip_image_backward(pc_ctx *ctx, pc_clip *l, const pc_clip_kept *kept, pc_tensor du);
void pc_clip_text_backward(pc_ctx *ctx, pc_clip *l, const pc_clip_kept *kept,
                           const pc_text_batch *b, pc_tensor dv);

// The loss over all B embeddings (host double out), and its gradients: du, dv (B,E) overwritten; the
// gradients of t and b accumulate into the weights', unless frozen. du or dv may be absent.
double pc_clip_loss_forward(pc_ctx *ctx, const pc_clip *l, pc_tensor u, pc_tensor v);
double pc_clip_loss_backward(pc_ctx *ctx, pc_tensor du, pc_tensor dv, pc_clip *l, pc_tensor u,
                             pc_tensor v);
// The same with the loss left in `loss`, f64 (1): nothing waits for a device.
void pc_clip_loss_launch(pc_ctx *ctx, pc_tensor loss, pc_tensor du, pc_tensor dv, pc_clip *l,
                         pc_tensor u, pc_tensor v);

#endif
