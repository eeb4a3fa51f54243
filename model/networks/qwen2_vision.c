/*
 * qwen2_vision.c - Qwen2-VL's tower and merger.
 */
#include "model/networks/qwen2_vision.h"

#include <math.h>

#include "model/layers/mask.h"
#include "model/layers/taps.h"

static int64_t head_width(const pc_vision_config *c)
{
    return c->C / c->H;
}

static int64_t merged_width(const pc_qwen2_vision *l)
{
    return l->m * l->m * l->config.C;
}

int64_t pc_qwen2_patch_width(const pc_vision_config *c)
{
    return 3 * c->frames * c->patch * c->patch;
}

void pc_qwen2_vision_params(pc_params *p, pc_qwen2_vision *l, const pc_vision_config *c, int64_t m,
                            int64_t O)
{
    *l = (pc_qwen2_vision){.config = *c, .m = m, .O = O};
    const double C = (double)c->C, L = (double)(c->L > 0 ? c->L : 1), narrow = 1.0 / sqrt(C);
    const int64_t I = pc_qwen2_patch_width(c), M = merged_width(l);
    const pc_transformer_config blocks = {.L = c->L,
                                          .C = c->C,
                                          .H = c->H,
                                          .G = c->H,
                                          .D = head_width(c),
                                          .F = c->F,
                                          .norm = PC_LAYERNORM,
                                          .eps = c->eps,
                                          .act = c->act,
                                          .qkv_bias = true,
                                          .out_bias = true,
                                          .mlp_bias = true,
                                          .std = narrow,
                                          .out_std = narrow / sqrt(2.0 * L),
                                          .fc_std = 1.0 / sqrt(2.0 * C),
                                          .recompute = c->recompute};
    size_t prefix = pc_params_push(p, "vision");
    pc_linear_params(p, &l->stem, "stem.0", I, c->C, false, sqrt(2.0 / ((double)I + C)));
    pc_param_hidden(p, &l->stem.weight, false); // it reads pixels
    pc_transformer_params(p, &l->blocks, &blocks);
    pc_params_pop(p, prefix);

    prefix = pc_params_push(p, "projector");
    pc_norm_params(p, &l->merge_norm, "norm", PC_LAYERNORM, c->C, c->eps);
    pc_linear_params(p, &l->merge[0], "linear.0", M, M, true, 1.0 / sqrt((double)M));
    pc_linear_params(p, &l->merge[1], "linear.1", M, O, true, sqrt(2.0 / (double)(M + O)));
    pc_params_pop(p, prefix);
}

void pc_qwen2_vision_close(pc_qwen2_vision *l)
{
    pc_transformer_close(&l->blocks);
}

pc_status pc_qwen2_vision_validate(const pc_vision_config *c, int64_t m)
{
    if (c->H < 1 || c->C % c->H)
        return pc_fail(PC_ERR_INPUT, "vision.H: %lld heads do not divide vision.C, %lld",
                       (long long)c->H, (long long)c->C);
    if (head_width(c) % 4)
        return pc_fail(PC_ERR_INPUT,
                       "vision.H: heads of %lld; lines and columns turn pairs each, so 4 must "
                       "divide vision.C / vision.H",
                       (long long)head_width(c));
    if (m < 1) return pc_fail(PC_ERR_INPUT, "merge: %lld; at least 1", (long long)m);
    if (c->frames < 1)
        return pc_fail(PC_ERR_INPUT, "vision.frames: %lld; at least 1", (long long)c->frames);
    if (!(c->theta > 0.0))
        return pc_fail(PC_ERR_INPUT, "vision.rope_theta: %g; more than 0", c->theta);
    return PC_OK;
}

void pc_qwen2_vision_tables(pc_qwen2_vision *l, pc_arena *a, pc_dtype t)
{
    // Half of a head's frequencies turn with the line, the other half with the column: D/4 of each.
    const pc_rope_config rope = {.theta = l->config.theta};
    pc_rope_tables(&l->rope, a, t, &rope, PC_QWEN2_SIDE_MAX, head_width(&l->config) / 2);
}

/* Lines and columns of one frame's patches, in the order of rows. */
static void frame_places(int32_t *line, int32_t *column, int64_t h, int64_t w, int64_t m)
{
    for (int64_t k = 0; k < h * w; k++) {
        const int64_t block = k / (m * m), inside = k % (m * m), across = w / m;
        line[k] = (int32_t)(block / across * m + inside / m);
        column[k] = (int32_t)(block % across * m + inside % m);
    }
}

/* The angles of each row: those of its line, then those of its column. */
static pc_tensor line_and_column(pc_ctx *ctx, pc_tensor table, pc_tensor line, pc_tensor column)
{
    const int64_t half = table.dim[1];
    const pc_tensor out = pc_alloc2(ctx->act, pc_stat(ctx), line.dim[0], 2 * half);
    ctx->ops->gather_forward(ctx, pc_cols(out, 0, half), table, line);
    ctx->ops->gather_forward(ctx, pc_cols(out, half, 2 * half), table, column);
    return out;
}

/* Who sees whom (patches of the same frame), and what queries and keys turn with. */
static void place_rows(pc_ctx *ctx, pc_seq *seq, const pc_qwen2_vision *l,
                       const pc_image_geometry *image, int64_t images, int64_t N)
{
    int64_t S = 0, s = 0, n = 0;
    for (int64_t i = 0; i < images; i++) S += image[i].t;
    const pc_tensor line = pc_alloc1(ctx->act, PC_I32, N), column = pc_alloc1(ctx->act, PC_I32, N);
    pc_mask *mask = &seq->mask;
    pc_mask_alloc(mask, ctx->act, S, N, false);
    seq->pos = pc_alloc1(ctx->act, PC_I32, N);
    for (int64_t i = 0; i < images; i++) {
        const int64_t h = image[i].h, w = image[i].w, P = h * w;
        for (int64_t t = 0; t < image[i].t; t++, s++, n += P) {
            mask->pairs += (double)P * (double)P;
            if (ctx->act->dry) continue;
            frame_places(pc_i32(line) + n, pc_i32(column) + n, h, w, l->m);
            pc_i32(mask->q_off)[s] = pc_i32(mask->k_off)[s] = (int32_t)n;
            for (int64_t k = n; k < n + P; k++) {
                pc_i32(mask->lo)[k] = (int32_t)n;
                pc_i32(mask->hi)[k] = (int32_t)(n + P);
                pc_i32(seq->pos)[k] = (int32_t)k;
            }
        }
    }
    PC_ASSERT(n == N, "%lld patches given, the images have %lld", (long long)N, (long long)n);
    if (!ctx->act->dry) pc_i32(mask->q_off)[S] = pc_i32(mask->k_off)[S] = (int32_t)N;
    seq->rope.cos_table = line_and_column(ctx, l->rope.cos_table, line, column);
    seq->rope.sin_table = line_and_column(ctx, l->rope.sin_table, line, column);
}

pc_tensor pc_qwen2_vision_forward(pc_ctx *ctx, pc_qwen2_vision_kept *kept, const pc_qwen2_vision *l,
                                  pc_tensor cols, const pc_image_geometry *image, int64_t images)
{
    const int64_t N = cols.dim[0];
    *kept = (pc_qwen2_vision_kept){.cols = cols};
    const size_t tap = pc_tap_push(ctx, "vision");
    place_rows(ctx, &kept->seq, l, image, images, N);
    kept->tokens = pc_alloc2(ctx->act, ctx->real, N, l->config.C);
    pc_linear_forward(ctx, kept->tokens, &l->stem, cols, PC_NONE);
    kept->hidden = pc_transformer_forward(ctx, &kept->blocks, &l->blocks, kept->tokens, &kept->seq,
                                          NULL, NULL, l->config.L);
    pc_tap_pop(ctx, tap);
    return kept->hidden;
}

bool pc_qwen2_vision_trains(const pc_qwen2_vision *l)
{
    return pc_linear_trains(&l->stem) || pc_transformer_trains(&l->blocks, l->config.L);
}

void pc_qwen2_vision_backward(pc_ctx *ctx, pc_qwen2_vision *l, const pc_qwen2_vision_kept *kept,
                              pc_tensor dhidden)
{
    const bool stem = pc_linear_trains(&l->stem);
    pc_transformer_backward(ctx, stem ? dhidden : PC_NONE, &l->blocks, &kept->blocks, dhidden,
                            &kept->seq);
    if (stem) pc_linear_backward(ctx, PC_NONE, &l->stem, dhidden, kept->cols);
}

pc_tensor pc_qwen2_merge_forward(pc_ctx *ctx, pc_qwen2_vision_kept *kept, const pc_qwen2_vision *l,
                                 pc_tensor hidden)
{
    const int64_t M = merged_width(l), R = pc_numel(hidden) / M;
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, R, l->O);
    kept->merge_in = hidden;
    kept->normed = pc_alloc_like(ctx->act, hidden);
    kept->z = pc_alloc2(ctx->act, ctx->real, R, M);
    kept->a = pc_alloc2(ctx->act, ctx->real, R, M);
    pc_norm_forward(ctx, kept->normed, &kept->norm, &l->merge_norm, hidden);
    pc_linear_act_forward(ctx, kept->a, kept->z, &l->merge[0], pc_reshape2(kept->normed, R, M),
                          PC_ACT_GELU);
    pc_linear_forward(ctx, y, &l->merge[1], kept->a, PC_NONE);
    pc_tap_add(ctx, y, "projector.out");
    return y;
}

bool pc_qwen2_merge_trains(const pc_qwen2_vision *l)
{
    return pc_norm_trains(&l->merge_norm) || pc_linear_trains(&l->merge[0]) ||
           pc_linear_trains(&l->merge[1]);
}

void pc_qwen2_merge_backward(pc_ctx *ctx, pc_tensor dhidden, pc_qwen2_vision *l,
                             const pc_qwen2_vision_kept *kept, pc_tensor dy)
{
    const int64_t M = merged_width(l), R = dy.dim[0];
    const bool norm = pc_present(dhidden) || pc_norm_trains(&l->merge_norm);
    if (!norm && !pc_linear_trains(&l->merge[0])) {
        pc_linear_backward(ctx, PC_NONE, &l->merge[1], dy, kept->a);
        return;
    }
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor da = pc_alloc_like(ctx->scratch, kept->a);
    const pc_tensor dnormed = norm ? pc_alloc_like(ctx->scratch, kept->normed) : PC_NONE;
    pc_linear_backward(ctx, da, &l->merge[1], dy, kept->a);
    pc_linear_act_backward(ctx, da, &l->merge[0], da, kept->z, PC_ACT_GELU);
    pc_linear_backward(ctx, norm ? pc_reshape2(dnormed, R, M) : PC_NONE, &l->merge[0], da,
                       pc_reshape2(kept->normed, R, M));
    if (norm)
        pc_norm_backward(ctx, pc_present(dhidden) ? dhidden : dnormed, &l->merge_norm, &kept->norm,
                         dnormed, kept->merge_in, PC_NONE);
    pc_arena_release(ctx->scratch, mark);
}
