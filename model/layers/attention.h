/*
 * attention.h - grouped-head attention: projections, rotary positions, query/key norm, output.
 *
 *   q, k, v = split(x Wqkv^T + b)      Wqkv ((H+2G)D, C): rows of q, then k, then v
 *   q, k    = rope(norm(q)), rope(norm(k))           where the config asks for them
 *   y       = attention(q, k, v) Wo^T + bo + r
 *
 * Self-attention by default. Cross-attention (pooling heads, resamplers) takes keys and values from
 * another tensor: attention_cross_*.
 */
#ifndef PC_LAYERS_ATTENTION_H
#define PC_LAYERS_ATTENTION_H

#include "model/layers/linear.h"
#include "model/layers/norm.h"

typedef struct pc_attention_config {
    int64_t C, H, G, D;
    bool qkv_bias, out_bias, qk_norm;
    double eps;          // of the query/key norm
    double std, out_std; // initial standard deviations
} pc_attention_config;

typedef struct pc_attention {
    pc_attention_config config;
    pc_linear qkv, out;
    pc_norm q_norm, k_norm;
} pc_attention;

// Rotary tables (R, D/2), row r the angles of position r; absent where positions are learned. Where a row has several
// positions (a place in an image or a film), each frequency turns with one of them: an axis has a table of its own,
// the same with the columns of the others zero, so that a row's angles are a sum of table rows.
#define PC_ROPE_AXES 3
typedef struct pc_rope {
    pc_tensor cos_table, sin_table;
    pc_tensor cos_axis[PC_ROPE_AXES], sin_axis[PC_ROPE_AXES]; // absent with one position a row
} pc_rope;

// Keys and values of past tokens, one layer: sequence s owns rows [k_off[s], k_off[s+1]) of the mask.
// New rows are written at `write` (i32 (N), row numbers) before attending. Absent in training.
typedef struct pc_kv {
    pc_tensor k, v;  // (M, G*D)
    pc_tensor write; // i32 (N)
} pc_kv;

// Where the rows of a batch stand: shared by every layer.
typedef struct pc_seq {
    pc_mask mask;
    pc_tensor pos;   // i32 (N), rows of the rotary tables; absent without rope
    pc_tensor pos_y; // i32 (N), where rows have two positions: then pos is the column, this the row
    pc_tensor pos_z; // i32 (N), with three: then pos is the frame, pos_y the row, this the column
    pc_rope rope;
} pc_seq;

/*
 * The rows that anything reads, where that is not all of them: a tower's last block need make no others. Their
 * queries attend to the keys and values of all rows. What is left out has no gradient either, so nothing changes
 * but the work.
 */
typedef struct pc_read {
    pc_tensor rows; // i32 (M), ascending
    pc_seq seq;     // what these rows see, and where they stand
} pc_read;

// From row numbers among the N of `seq`; memory from `a`.
void pc_read_rows(pc_read *out, pc_arena *a, const pc_seq *seq, pc_tensor rows, int64_t N);

typedef struct pc_attention_kept {
    pc_tensor qkv;    // (N, (H+2G)D) after rope; with query/key norm (N, (H+G)D): no values
    pc_tensor raw;    // (N, (H+2G)D) before the query/key norm; absent without it
    pc_tensor o, lse; // (N, H*D), (N, H)
    pc_norm_kept q_norm, k_norm;
    // With rows to read alone the queries stand apart: qkv and raw hold keys and values only, o and lse M rows.
    pc_tensor x, q, q_raw; // (M,C), (M, H*D), (M, H*D)
} pc_attention_kept;

void pc_attention_params(pc_params *p, pc_attention *l, const char *name,
                         const pc_attention_config *c);
// y and r (N,C), x (N,C). With `read` (NULL: every row) y and r are (M,C), and so is dy.
void pc_attention_forward(pc_ctx *ctx, pc_tensor y, pc_attention_kept *kept, const pc_attention *l,
                          pc_tensor x, const pc_seq *seq, const pc_read *read, pc_kv *kv,
                          pc_tensor r);
void pc_attention_backward(pc_ctx *ctx, pc_tensor dx, pc_attention *l,
                           const pc_attention_kept *kept, pc_tensor dy, pc_tensor x,
                           const pc_seq *seq, const pc_read *read);
bool pc_attention_trains(const pc_attention *l); // some parameter of it has a gradient

// How frequencies are stretched for sequences longer than those of training (spec: decoders.md 3).
typedef enum pc_rope_scaling {
    PC_ROPE_NONE,
    PC_ROPE_LINEAR,
    PC_ROPE_LLAMA3,
    PC_ROPE_YARN, // Peng 2023, arXiv 2309.00071: long waves stretched, short ones not, cos and sin made larger
    PC_ROPE_DYNAMIC, // the base grows with the sequence, once it is longer than original_max
} pc_rope_scaling;
typedef struct pc_rope_config {
    double theta;
    pc_rope_scaling scaling;
    double factor, low_freq, high_freq, original_max;
    double beta_fast,
        beta_slow; // YaRN: turns within original_max from which a wave stays, up to which it is stretched
    double attn_factor; // YaRN: of cos and sin; 0: 0.1 ln(factor) + 1
    bool ramp_exact;    // YaRN: the ramp's ends are no whole frequencies (`truncate: false`)
} pc_rope_config;
// Tables for positions 0 .. R-1; PC_ROPE_DYNAMIC: as they are up to original_max.
void pc_rope_tables(pc_rope *out, pc_arena *a, pc_dtype t, const pc_rope_config *c, int64_t R,
                    int64_t D);
// Adds the tables of two axes, for rows with two positions: even frequencies turn with the column, odd ones with
// the row.
void pc_rope_tables_2d(pc_rope *out, pc_arena *a);
// Adds those of three (M-RoPE, spec: qwen-vl.md 5): the first sections[0] frequencies turn with the frame, the next
// sections[1] with the row, the rest with the column.
void pc_rope_tables_sections(pc_rope *out, pc_arena *a, const int64_t sections[PC_ROPE_AXES]);
// From several positions a row to tables of one row each, in ctx->act, and pos 0 .. N-1: what layers read. An
// absent pos_y or pos_z is pos.
void pc_rope_resolve(pc_ctx *ctx, pc_seq *seq);
// PC_ROPE_DYNAMIC: tables of one row each for the length of this pass, its largest position + 1, in ctx->act, and pos
// 0 .. N-1. Keys that a cache holds keep the base of their own pass, as in transformers. Positions are read by the
// host: not for a device (pc_placement_open refuses).
void pc_rope_dynamic(pc_ctx *ctx, pc_seq *seq, const pc_rope_config *c, int64_t D);

#endif
