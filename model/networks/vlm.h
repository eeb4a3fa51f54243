/*
 * vlm.h - eyes, projector, decoder: image features spliced into the token sequence (spec: llava.md 1, 2, 9).
 *
 *   f = projector(select(vision(pixels)));  x = token_table[ids], rows of image places replaced by f;
 *   decoder over the merged sequence; next-token cross-entropy on supervised rows.
 *
 * Eyes are of several kinds (pc_visual_kind). What differs by kind stands in visual.c, one switch for each
 * question: which parameters, how many rows and positions an image takes, forward, backward, what is trained.
 * A model without a tower (vision.L = 0, whatever the kind) is a text decoder.
 */
#ifndef PC_NETWORKS_VLM_H
#define PC_NETWORKS_VLM_H

#include "model/networks/decoder.h"
#include "model/networks/geometry.h"
#include "model/networks/hybrid.h"
#include "model/networks/projector.h"
#include "model/networks/qwen2_vision.h"
#include "model/networks/resampler.h"
#include "model/networks/tiles.h"
#include "model/networks/vision.h"

typedef enum pc_visual_kind {
    PC_VISUAL_SQUARE, // square images of vision.image_size, one tower: every image takes as many rows
    PC_VISUAL_TILES, // the whole image and tiles of it, packed into as many rows as its shape asks for
    PC_VISUAL_GRID,      // patches of any grid (frames, rows, columns), merged (Qwen2-VL)
    PC_VISUAL_RESAMPLER, // square images, rows read by a fixed number of queries (Qwen-VL)
    PC_VISUAL_HYBRID,    // every image in two sizes, each to a tower of its own (DeepSeek-VL 7B)
} pc_visual_kind;

typedef struct pc_vlm_config {
    pc_visual_kind visual;
    pc_vision_config vision;
    pc_projector_config projector;
    pc_decoder_config decoder;
    pc_pinpoints pinpoints; // tiles: resolutions that an image may be cut in
    int64_t max_tiles;      // tiles: features are shrunk to those of so many; 0: never
    int64_t merge;          // grid: patches of a row of features, in each direction
    int64_t feature_layer;  // hidden state read: -1 the last block's output, -2 the one before ...
    // Further hidden states, beside the first in the columns; 0: none.
    int64_t also[PC_LAYERS_MAX - 1];
    bool keep_class;          // the class token's feature is passed on too
    bool feature_norm;        // what is passed on goes through the tower's norm_post
    pc_sam_config high;       // hybrid: the tower of the large images
    bool image_bidirectional; // rows of one image see each other in both directions in the decoder
    int64_t image_id;         // token id of an image place
    int64_t video_id; // token id of a film's place, 0: none. A film is an image of several frames
} pc_vlm_config;

// What the eyes of a batch are given: its images one after the other, in the order of their places.
typedef struct pc_pictures {
    int64_t count;                     // images
    const pc_image_geometry *geometry; // (count); NULL where every image takes as many rows
    pc_tensor pixels;                  // (crops of all images,3,S,S)
    pc_tensor high;                    // (count,3,S',S'): hybrid
    pc_tensor patches;                 // (patches of all images, numbers of a patch): grid
} pc_pictures;

typedef struct pc_vlm {
    pc_vlm_config config;
    pc_vision vision;
    pc_projector projector;
    pc_qwen2_vision grid;   // PC_VISUAL_GRID: instead of tower and projector
    pc_resampler resampler; // PC_VISUAL_RESAMPLER: instead of the projector
    pc_weight newline;      // (1,C), tiles: "projector.newline"
    pc_hybrid hybrid;       // PC_VISUAL_HYBRID: beside the tower, instead of the projector
    pc_decoder decoder;
} pc_vlm;

/*
 * A batch of sequences, rows one after the other, made by data/ (or by pc_vlm_batch_build).
 * labels[n] is the token that row n must predict (already shifted), -1 where nothing is supervised.
 */
typedef struct pc_vlm_batch {
    int64_t N;
    pc_pictures pictures; // count 0: text alone
    pc_tensor ids;        // i32 (N), -1 at image rows
    pc_tensor
        image_rows; // i32 (feature rows of all images): where they go in the sequence, -1: nowhere
    pc_tensor labels; // i32 (N)
    pc_tensor pos;    // i32 (N)
    pc_tensor pos_y;  // i32 (N), decoder.rope_2d and mrope: see pc_seq
    pc_tensor pos_z;  // i32 (N), mrope
    pc_mask mask;
    int64_t supervised; // labels >= 0
} pc_vlm_batch;

// Where features of crops went (pack.c): i32 arrays, and rows of its buffers.
typedef struct pc_pack_kept {
    int64_t rows, grid, small;
    pc_tensor to, newline_at, to_grid, from_small;
} pc_pack_kept;

typedef struct pc_vlm_kept {
    pc_vision_kept vision;
    pc_projector_kept projector;
    pc_qwen2_vision_kept grid;
    pc_resampler_kept resampler;
    pc_pack_kept pack;
    pc_hybrid_kept hybrid;
    pc_decoder_kept decoder;
    pc_tensor hidden, selected, select_index, features; // tower output, rows passed on, projected
    pc_tensor unnormed;                                 // rows passed on before feature_norm
    pc_norm_kept feature_norm;
    pc_tensor x, normed;
} pc_vlm_kept;

void pc_vlm_params(pc_params *p, pc_vlm *l, const pc_vlm_config *c);
void pc_vlm_eyes_params(pc_params *p,
                        pc_vlm *l); // the part of tower and projector: "vision.", "projector."
pc_status pc_vlm_eyes_validate(const pc_vlm_config *c);
void pc_vlm_tables(pc_vlm *l, pc_arena *a, pc_dtype t); // rotary tables of decoder and eyes
void pc_vlm_close(pc_vlm *l);
pc_status pc_vlm_validate(const pc_vlm_config *c);
int64_t pc_vlm_stop(const pc_vlm_config *c); // blocks of the tower that run
// After how many blocks each hidden state that is passed on stands, in the order of their columns; their number.
int pc_vlm_layers(const pc_vlm_config *c, int64_t stops[PC_LAYERS_MAX]);

// ---- images (visual.c) ----
bool pc_vlm_place(const pc_vlm_config *c,
                  int64_t id);             // the model has eyes and this id is a place of an image
bool pc_vlm_alike(const pc_vlm_config *c); // every image takes as many rows
// Fills crops and rows in from height and width (tiles; crops 1 beforehand keeps the image whole) or t, h, w (grid);
// PC_ERR_INPUT for shapes that cannot be.
pc_status pc_vlm_measure(pc_image_geometry *g, const pc_vlm_config *c);
int64_t
pc_vlm_rows_per_image(const pc_vlm_config *c);    // where they vary: of the largest, 0 when none is
int64_t pc_vlm_crop_rows(const pc_vlm_config *c); // rows that one square crop leaves the tower with
// Rows and positions that n ids take; `images` are those of their places in order, NULL when all are alike.
int64_t pc_vlm_rows(const pc_vlm_config *c, const int32_t *ids, int64_t n,
                    const pc_image_geometry *images);
int64_t pc_vlm_positions(const pc_vlm_config *c, const int32_t *ids, int64_t n,
                         const pc_image_geometry *images);
int64_t pc_vlm_places(const pc_vlm_config *c, const int32_t *ids,
                      int64_t n); // image places among them
// Positions that an image takes, and those of its row k (from 0): frame, row, column with mrope; column and row
// with rope_2d; a count otherwise. They are added to the position at which the image begins.
int64_t pc_vlm_image_positions(const pc_vlm_config *c, const pc_image_geometry *g);
void pc_vlm_image_place(int64_t out[PC_ROPE_AXES], const pc_vlm_config *c,
                        const pc_image_geometry *g, int64_t k);
// Whether a forward pass with images reads this parameter: false for what files hold and nothing uses.
bool pc_vlm_reads(const pc_vlm_config *c, const char *name);

// Features (rows of all images, C) of a batch's pictures. Backward: dfeatures is consumed.
pc_tensor pc_vlm_features_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l,
                                  const pc_pictures *pictures);
void pc_vlm_features_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept,
                              const pc_pictures *pictures, pc_tensor dfeatures);
bool pc_vlm_eyes_train(
    const pc_vlm *l); // some parameter of tower or projector that a pass reads has a gradient

// ---- the whole ----
// Normed rows (N,C).
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
    const int64_t *branch_end;       // (branches), ends in `length`
    const pc_image_geometry *images; // of its image places, in order; NULL when all are alike
} pc_sequence;

// Lays S sequences out (row numbers, positions, labels, mask, the geometry of the pictures). Pixels are the caller's. PC_ERR_INPUT when a
// sequence exceeds decoder.T or the number of image places differs from `images`. Memory from `a`.
pc_status pc_vlm_batch_build(pc_vlm_batch *out, pc_arena *a, const pc_vlm_config *c,
                             const pc_sequence *seqs, int64_t S, int64_t images);

bool pc_vlm_trains(const pc_vlm *l); // some parameter of it has a gradient

#endif
