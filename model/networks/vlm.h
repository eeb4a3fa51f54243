/*
 * vlm.h - tower, projector, decoder: image features spliced into the token sequence (spec: llava.md 1, 2, 9).
 *
 *   f = projector(select(vision(pixels)));  x = token_table[ids], rows of image places replaced by f;
 *   decoder over the merged sequence; next-token cross-entropy on supervised rows.
 *
 * A model without a tower (vision.L = 0) is a text decoder.
 */
#ifndef PC_NETWORKS_VLM_H
#define PC_NETWORKS_VLM_H

#include "model/networks/decoder.h"
#include "model/networks/projector.h"
#include "model/networks/vision.h"

typedef struct pc_vlm_config {
    pc_vision_config vision;
    pc_projector_config projector;
    pc_decoder_config decoder;
    int64_t feature_layer; // hidden state read: -1 the last block's output, -2 the one before ...
    bool keep_class;       // the class token's feature is passed on too
    bool image_bidirectional; // rows of one image see each other in both directions in the decoder
    int64_t image_id;         // token id of an image place
} pc_vlm_config;

typedef struct pc_vlm {
    pc_vlm_config config;
    pc_vision vision;
    pc_projector projector;
    pc_decoder decoder;
} pc_vlm;

/*
 * A batch of sequences, rows one after the other, made by data/ (or by pc_vlm_batch_build).
 * labels[n] is the token that row n must predict (already shifted), -1 where nothing is supervised.
 */
typedef struct pc_vlm_batch {
    int64_t N, images;
    pc_tensor pixels;     // (images,3,S,S); absent for text alone
    pc_tensor ids;        // i32 (N), -1 at image rows
    pc_tensor image_rows; // i32 (images * rows per image): where feature rows go
    pc_tensor labels;     // i32 (N)
    pc_tensor pos,
        pos_y; // i32 (N); pos_y with decoder.rope_2d only: pos is the column, pos_y the row
    pc_mask mask;
    int64_t supervised; // labels >= 0
} pc_vlm_batch;

typedef struct pc_vlm_kept {
    pc_vision_kept vision;
    pc_projector_kept projector;
    pc_decoder_kept decoder;
    pc_tensor hidden, selected, select_index, features; // tower output, rows passed on, projected
    pc_tensor x, normed;
} pc_vlm_kept;

void pc_vlm_params(pc_params *p, pc_vlm *l, const pc_vlm_config *c);
void pc_vlm_close(pc_vlm *l);
pc_status pc_vlm_validate(const pc_vlm_config *c);
int64_t pc_vlm_rows_per_image(const pc_vlm_config *c);
int64_t pc_vlm_rows(const pc_vlm_config *c, const int32_t *ids, int64_t n);      // that n ids take
int64_t pc_vlm_positions(const pc_vlm_config *c, const int32_t *ids, int64_t n); // likewise
int64_t pc_vlm_stop(const pc_vlm_config *c); // blocks of the tower that run

// Projected features (images * rows per image, C) and, in one go, normed rows (N,C).
pc_tensor pc_vlm_features_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l,
                                  pc_tensor pixels);
pc_tensor pc_vlm_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l, const pc_vlm_batch *b,
                         pc_kv *kv);

// nll (N): -ln p of every supervised row. Backward: the gradient of sum_n coef[n] nll[n] through the
// whole model; coef is 1/M, M the supervised tokens of the whole optimiser step.
void pc_vlm_loss_forward(pc_ctx *ctx, pc_tensor nll, const pc_vlm *l, const pc_vlm_kept *kept,
                         const pc_vlm_batch *b);
void pc_vlm_loss_backward(pc_ctx *ctx, pc_tensor nll, pc_vlm *l, const pc_vlm_kept *kept,
                          const pc_vlm_batch *b, pc_tensor coef);

/*
 * One sequence to be laid out: ids with image_id at each image place (one per image, to be expanded to the
 * rows of that image), `supervised` marks tokens that are to be learned (the row before predicts them).
 * `branches` > 0: ids after the first `prefix` tokens are cut at `branch_end` into branches that see the
 * prefix and themselves but not each other; positions of each restart after the prefix.
 */
typedef struct pc_sequence {
    const int32_t *ids;
    const uint8_t *supervised; // NULL: nothing
    int64_t length;
    int64_t prefix, branches;
    const int64_t *branch_end; // (branches), ends in `length`
} pc_sequence;

// Lays S sequences out (row numbers, positions, labels, mask). Pixels are the caller's. PC_ERR_INPUT when a
// sequence exceeds decoder.T or the number of image places differs from `images`. Memory from `a`.
pc_status pc_vlm_batch_build(pc_vlm_batch *out, pc_arena *a, const pc_vlm_config *c,
                             const pc_sequence *seqs, int64_t S, int64_t images);

bool pc_vlm_trains(const pc_vlm *l); // some parameter of it has a gradient

#endif
