/*
 * visual.c - what differs by the kind of eyes (see vlm.h): one switch for each question.
 *
 * A tower of which nothing is trained runs as in inference: it keeps nothing and its dropout is off.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/layers/place.h"
#include "model/layers/taps.h"
#include "model/networks/pack.h"

static bool has_tower(const pc_vlm_config *c)
{
    return c->vision.L > 0;
}

static bool drops_class(const pc_vlm_config *c)
{
    return c->vision.class_token && !c->keep_class;
}

bool pc_vlm_place(const pc_vlm_config *c, int64_t id)
{
    return has_tower(c) && (id == c->image_id || (c->video_id > 0 && id == c->video_id));
}

/* ---- geometry ---- */

bool pc_vlm_alike(const pc_vlm_config *c)
{
    return c->visual != PC_VISUAL_TILES && c->visual != PC_VISUAL_GRID;
}

int64_t pc_vlm_crop_rows(const pc_vlm_config *c)
{
    return has_tower(c) ? pc_vision_tokens(&c->vision) - drops_class(c) : 0;
}

static pc_status measure_grid(pc_image_geometry *g, const pc_vlm_config *c)
{
    const int64_t most = INT32_MAX;
    if (g->t < 1 || g->h < 1 || g->w < 1 || c->merge < 1 || g->h % c->merge || g->w % c->merge ||
        g->h > PC_QWEN2_SIDE_MAX || g->w > PC_QWEN2_SIDE_MAX || g->t > most / (g->h * g->w))
        return pc_fail(PC_ERR_INPUT,
                       "an image of %lld x %lld x %lld patches; expected at least one frame, rows "
                       "and columns that are multiples of %lld and at most %d",
                       (long long)g->t, (long long)g->h, (long long)g->w, (long long)c->merge,
                       PC_QWEN2_SIDE_MAX);
    g->rows = g->t * (g->h / c->merge) * (g->w / c->merge);
    return PC_OK;
}

pc_status pc_vlm_measure(pc_image_geometry *g, const pc_vlm_config *c)
{
    switch (c->visual) {
    case PC_VISUAL_GRID: return measure_grid(g, c);
    case PC_VISUAL_TILES: return pc_pack_measure(g, c);
    case PC_VISUAL_SQUARE:
    case PC_VISUAL_RESAMPLER:
    case PC_VISUAL_HYBRID: break;
    }
    g->crops = 1;
    g->rows = pc_vlm_rows_per_image(c);
    return PC_OK;
}

int64_t pc_vlm_rows_per_image(const pc_vlm_config *c)
{
    if (!has_tower(c)) return 0;
    switch (c->visual) {
    case PC_VISUAL_TILES: return pc_pack_most(c);
    case PC_VISUAL_GRID: return 0; // there is no largest
    case PC_VISUAL_RESAMPLER: return c->projector.queries;
    case PC_VISUAL_SQUARE:
    case PC_VISUAL_HYBRID: break;
    }
    return pc_vlm_crop_rows(c);
}

static int64_t rows_of(const pc_vlm_config *c, const pc_image_geometry *g)
{
    PC_ASSERT(g || pc_vlm_alike(c), "an image without its geometry%s", "");
    return g ? g->rows : pc_vlm_rows_per_image(c);
}

int64_t pc_vlm_places(const pc_vlm_config *c, const int32_t *ids, int64_t n)
{
    int64_t places = 0;
    for (int64_t i = 0; i < n; i++) places += pc_vlm_place(c, ids[i]);
    return places;
}

int64_t pc_vlm_rows(const pc_vlm_config *c, const int32_t *ids, int64_t n,
                    const pc_image_geometry *images)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!pc_vlm_place(c, ids[i])) {
            rows++;
            continue;
        }
        rows += rows_of(c, images);
        if (images) images++;
    }
    return rows;
}

/* ---- positions ---- */

static int64_t side(const pc_vlm_config *c)
{
    return c->vision.image_size / c->vision.patch;
}

static bool frames_rows_columns(const pc_vlm_config *c)
{
    return c->visual == PC_VISUAL_GRID && pc_decoder_axes(&c->decoder) && !c->decoder.rope_2d;
}

int64_t pc_vlm_image_positions(const pc_vlm_config *c, const pc_image_geometry *g)
{
    if (c->decoder.rope_2d) return side(c) + c->keep_class;
    if (!frames_rows_columns(c)) return rows_of(c, g);
    const int64_t h = g->h / c->merge, w = g->w / c->merge, most = h > w ? h : w;
    return g->t > most ? g->t : most;
}

void pc_vlm_image_place(int64_t out[PC_ROPE_AXES], const pc_vlm_config *c,
                        const pc_image_geometry *g, int64_t k)
{
    if (frames_rows_columns(c)) {
        const int64_t h = g->h / c->merge, w = g->w / c->merge;
        out[0] = k / (h * w);
        out[1] = k / w % h;
        out[2] = k % w;
        return;
    }
    const int64_t patch = k - c->keep_class;
    out[0] = out[1] = out[2] = k;
    if (!c->decoder.rope_2d || patch < 0) return;
    out[0] = c->keep_class + patch % side(c);
    out[1] = c->keep_class + patch / side(c);
}

int64_t pc_vlm_positions(const pc_vlm_config *c, const int32_t *ids, int64_t n,
                         const pc_image_geometry *images)
{
    int64_t positions = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!pc_vlm_place(c, ids[i])) {
            positions++;
            continue;
        }
        positions += pc_vlm_image_positions(c, images);
        if (images) images++;
    }
    return positions;
}

/* ---- parameters ---- */

static pc_status validate_square(const pc_vlm_config *c)
{
    pc_status st;
    if ((st = pc_vision_validate(&c->vision)) || (st = pc_projector_validate(&c->projector)))
        return st;
    int64_t stops[PC_LAYERS_MAX];
    const int layers = pc_vlm_layers(c, stops);
    if (c->projector.in != layers * c->vision.C)
        return pc_fail(PC_ERR_INPUT, "projector.in: %lld; the tower (vision.C) is %lld wide%s",
                       (long long)c->projector.in, (long long)c->vision.C,
                       layers > 1 ? ", and several hidden states are read" : "");
    if (c->projector.out != c->decoder.C)
        return pc_fail(PC_ERR_INPUT, "projector.out: %lld; the decoder (decoder.C) is %lld wide",
                       (long long)c->projector.out, (long long)c->decoder.C);
    const int64_t rows = pc_vlm_crop_rows(c);
    if (c->projector.positions > 0 && c->projector.positions != rows)
        return pc_fail(PC_ERR_INPUT, "projector.positions: %lld; an image gives %lld rows",
                       (long long)c->projector.positions, (long long)rows);
    if (c->feature_layer > -1 || c->feature_layer < -(c->vision.L + 1))
        return pc_fail(PC_ERR_INPUT, "feature_layer: %lld is not in %lld .. -1",
                       (long long)c->feature_layer, (long long)-(c->vision.L + 1));
    for (int i = 1; i < layers; i++) {
        const long long also = (long long)c->also[i - 1];
        bool twice = false;
        for (int k = 0; k < i; k++) twice = twice || stops[k] == stops[i];
        if (twice || also > -1 || also < -(c->vision.L + 1))
            return pc_fail(PC_ERR_INPUT, "feature_layer_%d: %lld is %s", i + 1, also,
                           twice ? "read already" : "no hidden state of the tower");
    }
    if (c->feature_norm && layers > 1)
        return pc_fail(PC_ERR_INPUT, "feature_norm: true goes with one hidden state");
    if (c->keep_class && !c->vision.class_token)
        return pc_fail(PC_ERR_INPUT, "keep_class: true needs vision.class_token: true");
    if (c->feature_norm && !c->vision.post_norm && c->vision.head == PC_HEAD_NONE)
        return pc_fail(PC_ERR_INPUT, "feature_norm: true needs vision.post_norm: true");
    return PC_OK;
}

/* Both towers look at squares and give one grid of rows. */
static pc_status validate_hybrid(const pc_vlm_config *c)
{
    pc_status st;
    if ((st = validate_square(c)) || (st = pc_hybrid_validate(&c->high, &c->projector))) return st;
    if (c->keep_class)
        return pc_fail(PC_ERR_INPUT, "keep_class: true; the hybrid's large images have no class");
    return PC_OK;
}

static pc_resampler_config resampler_config(const pc_vlm_config *c)
{
    return (pc_resampler_config){.Q = c->projector.queries,
                                 .C = c->projector.out,
                                 .H = c->projector.heads,
                                 .I = c->projector.in,
                                 .eps = c->vision.eps};
}

static pc_status validate_resampler(const pc_vlm_config *c)
{
    const pc_resampler_config r = resampler_config(c);
    const pc_status st = validate_square(c);
    if (st) return st;
    if (c->decoder.rope_2d || c->projector.positions)
        return pc_fail(PC_ERR_INPUT, "%s; a query's row has no place in the image",
                       c->decoder.rope_2d ? "decoder.rope_2d: true"
                                          : "projector.positions: above 0");
    return pc_resampler_validate(&r, pc_vlm_crop_rows(c));
}

static pc_status validate_tiles(const pc_vlm_config *c)
{
    pc_status st = validate_square(c);
    if (st) return st;
    if ((st = pc_pinpoints_validate(&c->pinpoints, c->vision.image_size)))
        return pc_context(st, "pinpoints");
    if (c->keep_class)
        return pc_fail(PC_ERR_INPUT, "keep_class: true; a class token has no place among tiles");
    if (c->decoder.rope_2d || c->projector.positions)
        return pc_fail(PC_ERR_INPUT, "%s; tiles have no place in a square of patches",
                       c->decoder.rope_2d ? "decoder.rope_2d: true"
                                          : "projector.positions: above 0");
    return PC_OK;
}

pc_status pc_vlm_eyes_validate(const pc_vlm_config *c)
{
    pc_status st = PC_OK;
    switch (c->visual) {
    case PC_VISUAL_SQUARE: st = validate_square(c); break;
    case PC_VISUAL_TILES: st = validate_tiles(c); break;
    case PC_VISUAL_GRID: st = pc_qwen2_vision_validate(&c->vision, c->merge); break;
    case PC_VISUAL_RESAMPLER: st = validate_resampler(c); break;
    case PC_VISUAL_HYBRID: st = validate_hybrid(c); break;
    }
    if (st) return st;
    const int64_t least = pc_vlm_alike(c) ? pc_vlm_image_positions(c, NULL) : 1;
    if (least > c->decoder.T)
        return pc_fail(PC_ERR_INPUT, "decoder.T: %lld; an image alone takes %lld",
                       (long long)c->decoder.T, (long long)least);
    return PC_OK;
}

void pc_vlm_eyes_params(pc_params *p, pc_vlm *l)
{
    const pc_vlm_config *c = &l->config;
    if (!has_tower(c)) return;
    if (c->visual == PC_VISUAL_GRID) {
        pc_qwen2_vision_params(p, &l->grid, &c->vision, c->merge, c->decoder.C);
        return;
    }
    pc_vision_params(p, &l->vision, &c->vision);
    if (c->visual == PC_VISUAL_RESAMPLER) {
        const pc_resampler_config r = resampler_config(c);
        pc_resampler_params(p, &l->resampler, &r);
        return;
    }
    if (c->visual == PC_VISUAL_HYBRID) {
        pc_hybrid_params(p, &l->hybrid, &c->high, &c->projector, side(c));
        return;
    }
    pc_projector_params(p, &l->projector, &c->projector);
    if (c->visual == PC_VISUAL_TILES) {
        pc_param_add(p, &l->newline, "projector.newline", PC_INIT_NORMAL,
                     1.0 / sqrt((double)c->decoder.C), PC_DIMS(1, c->decoder.C));
        if (p->count > 0) p->list[p->count - 1].decay = false; // a single row is no matrix
    }
}

bool pc_vlm_reads(const pc_vlm_config *c, const char *name)
{
    static const char *const used[] = {"vision.stem.", "vision.class_token", "vision.positions",
                                       "vision.norm_pre.", "vision.high."};
    if (strncmp(name, "vision.", 7) != 0) return true;
    if (!strncmp(name, "vision.norm_post.", 17)) return c->feature_norm;
    for (size_t i = 0; i < sizeof used / sizeof *used; i++)
        if (!strncmp(name, used[i], strlen(used[i]))) return true;
    long long block;
    return sscanf(name, "vision.blocks.%lld.", &block) == 1 && block < pc_vlm_stop(c);
}

/* ---- forward and backward ---- */

int pc_vlm_layers(const pc_vlm_config *c, int64_t stops[PC_LAYERS_MAX])
{
    int n = 1;
    stops[0] = c->vision.L + 1 + c->feature_layer;
    while (n < PC_LAYERS_MAX && c->also[n - 1]) {
        stops[n] = c->vision.L + 1 + c->also[n - 1];
        n++;
    }
    return n;
}

int64_t pc_vlm_stop(const pc_vlm_config *c)
{
    int64_t stops[PC_LAYERS_MAX], most = 0;
    const int n = pc_vlm_layers(c, stops);
    for (int i = 0; i < n; i++) most = stops[i] > most ? stops[i] : most;
    return most;
}

/* The hidden states that are read by depth: where each stands among the columns. */
static int by_depth(const pc_vlm_config *c, int64_t stops[PC_LAYERS_MAX], int column[PC_LAYERS_MAX])
{
    int64_t given[PC_LAYERS_MAX];
    const int n = pc_vlm_layers(c, given);
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && stops[at - 1] > given[i]; at--) {
            stops[at] = stops[at - 1];
            column[at] = column[at - 1];
        }
        stops[at] = given[i];
        column[at] = i;
    }
    return n;
}

static bool norm_trains(const pc_vlm *l)
{
    return l->config.feature_norm && pc_norm_trains(&l->vision.norm_post);
}

static bool tower_trains(const pc_vlm *l)
{
    if (!has_tower(&l->config)) return false;
    if (l->config.visual == PC_VISUAL_GRID) return pc_qwen2_vision_trains(&l->grid);
    return pc_vision_trains(&l->vision, pc_vlm_stop(&l->config)) || norm_trains(l);
}

/* What stands between the tower's rows and the decoder. */
static bool connector_trains(const pc_vlm *l)
{
    switch (l->config.visual) {
    case PC_VISUAL_GRID: return pc_qwen2_merge_trains(&l->grid);
    case PC_VISUAL_RESAMPLER: return pc_resampler_trains(&l->resampler);
    case PC_VISUAL_HYBRID:
        return pc_hybrid_join_trains(&l->hybrid) || pc_hybrid_high_trains(&l->hybrid);
    case PC_VISUAL_SQUARE:
    case PC_VISUAL_TILES: break;
    }
    return pc_projector_trains(&l->projector);
}

bool pc_vlm_eyes_train(const pc_vlm *l)
{
    return has_tower(&l->config) &&
           (tower_trains(l) || connector_trains(l) || pc_present(l->newline.g));
}

/* Rows [first, N1) of every image: what is passed on when the class token is not. */
static pc_tensor patch_rows(pc_arena *a, int64_t B, int64_t N1)
{
    const int64_t P = N1 - 1;
    const pc_tensor index = pc_alloc1(a, PC_I32, B * P);
    if (!a->dry)
        for (int64_t n = 0; n < B * P; n++) pc_i32(index)[n] = (int32_t)(n / P * N1 + 1 + n % P);
    return index;
}

/* The rows that a tower passes on, behind its norm where the config asks for it. */
static void select_rows(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l)
{
    const bool drops = pc_present(kept->select_index);
    pc_tensor rows = kept->hidden;
    if (drops && l->config.feature_norm) {
        rows = pc_alloc_like(ctx->act, kept->selected);
        ctx->ops->gather_forward(ctx, rows, kept->hidden, kept->select_index);
    }
    if (l->config.feature_norm) {
        kept->unnormed = rows;
        pc_norm_forward(ctx, kept->selected, &kept->feature_norm, &l->vision.norm_post, rows);
    } else if (drops) {
        ctx->ops->gather_forward(ctx, kept->selected, kept->hidden, kept->select_index);
    } else if (pc_present(kept->selected)) {
        ctx->ops->copy_forward(ctx, kept->selected, kept->hidden);
    } else {
        kept->selected = kept->hidden;
    }
}

/* Several hidden states side by side: (crops * rows, columns of all). */
static void layers_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l, pc_tensor pixels)
{
    const int64_t C = l->config.vision.C;
    int64_t stops[PC_LAYERS_MAX];
    int column[PC_LAYERS_MAX];
    pc_tensor hidden[PC_LAYERS_MAX];
    const int n = by_depth(&l->config, stops, column);
    pc_vision_forward_layers(ctx, &kept->vision, &l->vision, pixels, stops, n, hidden);
    kept->hidden = hidden[n - 1];
    for (int i = 0; i < n; i++) {
        const pc_tensor y = pc_cols(kept->selected, column[i] * C, (column[i] + 1) * C);
        if (pc_present(kept->select_index))
            ctx->ops->gather_forward(ctx, y, hidden[i], kept->select_index);
        else
            ctx->ops->copy_forward(ctx, y, hidden[i]);
    }
}

static void layers_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept, pc_tensor dselected)
{
    const int64_t C = l->config.vision.C;
    int64_t stops[PC_LAYERS_MAX];
    int column[PC_LAYERS_MAX];
    pc_tensor d[PC_LAYERS_MAX];
    const int n = by_depth(&l->config, stops, column);
    for (int i = 0; i < n; i++) {
        const pc_tensor dy = pc_cols(dselected, column[i] * C, (column[i] + 1) * C);
        d[i] = pc_alloc_like(ctx->scratch, kept->hidden);
        if (pc_present(kept->select_index))
            ctx->grad_ops->gather_backward(ctx, d[i], dy, kept->select_index);
        else
            ctx->ops->copy_forward(ctx, d[i], dy);
    }
    pc_vision_backward_layers(ctx, &l->vision, &kept->vision, stops, n, d);
}

/* Square crops through the tower: (crops * rows per crop, vision.C). */
static pc_tensor tower_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l, pc_tensor given)
{
    const pc_tensor pixels = pc_place(ctx, given);
    const pc_vlm_config *c = &l->config;
    const pc_grad_ops *const grad_ops = ctx->grad_ops;
    const double dropout = ctx->dropout;
    const bool trains = tower_trains(l), drops = drops_class(c);
    const int64_t B = pixels.dim[0], rows = pc_vlm_crop_rows(c);
    int64_t stops[PC_LAYERS_MAX];
    const int layers = pc_vlm_layers(c, stops);
    // What outlives a tower that keeps nothing is allocated before it runs.
    if (drops || !trains || c->feature_norm || layers > 1)
        kept->selected = pc_alloc2(ctx->act, ctx->real, B * rows, layers * c->vision.C);
    if (drops) kept->select_index = patch_rows(ctx->act, B, rows + 1);
    const size_t mark = pc_arena_mark(ctx->act);
    if (!trains) {
        ctx->grad_ops = NULL;
        ctx->dropout = 0.0;
    }
    if (layers > 1) {
        layers_forward(ctx, kept, l, pixels);
    } else {
        kept->hidden =
            pc_vision_forward(ctx, &kept->vision, &l->vision, pixels, pc_vlm_stop(c), false);
        select_rows(ctx, kept, l);
    }
    ctx->grad_ops = grad_ops;
    ctx->dropout = dropout;
    if (!trains) pc_arena_release(ctx->act, mark);
    pc_tap_add(ctx, kept->selected, "vision.selected");
    return kept->selected;
}

/* dselected is consumed. */
static void tower_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept, pc_tensor dselected)
{
    pc_tensor dhidden = dselected;
    if (l->config.also[0]) {
        layers_backward(ctx, l, kept, dselected);
        return;
    }
    if (l->config.feature_norm)
        pc_norm_backward(ctx, dselected, &l->vision.norm_post, &kept->feature_norm, dselected,
                         kept->unnormed, PC_NONE);
    if (pc_present(kept->select_index)) {
        dhidden = pc_alloc_like(ctx->scratch, kept->hidden);
        ctx->grad_ops->gather_backward(ctx, dhidden, dselected, kept->select_index);
    }
    pc_vision_backward(ctx, &l->vision, &kept->vision, dhidden);
}

/* Square crops through tower and projector: (crops * rows per crop, C). */
static pc_tensor crops_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l, pc_tensor pixels)
{
    const pc_tensor x = tower_forward(ctx, kept, l, pixels);
    if (l->config.visual == PC_VISUAL_RESAMPLER)
        return pc_resampler_forward(ctx, &kept->resampler, &l->resampler, x,
                                    x.dim[0] / pixels.dim[0]);
    return pc_projector_forward(ctx, &kept->projector, &l->projector, x);
}

static void crops_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept, pc_tensor dy)
{
    const bool tower = tower_trains(l);
    pc_tensor dselected = PC_NONE;
    if (tower) dselected = pc_alloc_like(ctx->scratch, kept->selected);
    if (l->config.visual == PC_VISUAL_RESAMPLER)
        pc_resampler_backward(ctx, dselected, &l->resampler, &kept->resampler, dy);
    else
        pc_projector_backward(ctx, dselected, &l->projector, &kept->projector, dy);
    if (tower) tower_backward(ctx, l, kept, dselected);
}

/* Every image through both towers, its rows joined. */
static pc_tensor hybrid_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l,
                                const pc_pictures *pictures)
{
    const pc_grad_ops *const grad_ops = ctx->grad_ops;
    const pc_tensor s = tower_forward(ctx, kept, l, pictures->pixels);
    if (!pc_hybrid_high_trains(&l->hybrid)) ctx->grad_ops = NULL;
    const pc_tensor f =
        pc_hybrid_high_forward(ctx, &kept->hybrid, &l->hybrid, pc_place(ctx, pictures->high));
    ctx->grad_ops = grad_ops;
    return pc_hybrid_join_forward(ctx, &kept->hybrid, &l->hybrid, f, s);
}

static void hybrid_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept, pc_tensor dy)
{
    const bool high = pc_hybrid_high_trains(&l->hybrid), tower = tower_trains(l);
    pc_tensor df = PC_NONE, ds = PC_NONE;
    if (high) df = pc_alloc_like(ctx->scratch, kept->hybrid.f);
    if (tower) ds = pc_alloc_like(ctx->scratch, kept->selected);
    pc_hybrid_join_backward(ctx, df, ds, &l->hybrid, &kept->hybrid, dy);
    if (high) pc_hybrid_high_backward(ctx, &l->hybrid, &kept->hybrid, df);
    if (tower) tower_backward(ctx, l, kept, ds);
}

/* Patches of any grids through tower and merger: (merged patches, C). */
static pc_tensor grid_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l,
                              const pc_pictures *pictures)
{
    const pc_grad_ops *const grad_ops = ctx->grad_ops;
    const double dropout = ctx->dropout;
    const bool trains = tower_trains(l);
    const pc_tensor x = pc_place(ctx, pictures->patches);
    if (!trains) { // see crops_forward
        kept->selected = pc_alloc2(ctx->act, ctx->real, x.dim[0], l->config.vision.C);
        ctx->grad_ops = NULL;
        ctx->dropout = 0.0;
    }
    const size_t mark = pc_arena_mark(ctx->act);
    kept->hidden =
        pc_qwen2_vision_forward(ctx, &kept->grid, &l->grid, x, pictures->geometry, pictures->count);
    if (trains)
        kept->selected = kept->hidden;
    else
        ctx->ops->copy_forward(ctx, kept->selected, kept->hidden);
    ctx->grad_ops = grad_ops;
    ctx->dropout = dropout;
    if (!trains) pc_arena_release(ctx->act, mark);
    pc_tap_add(ctx, kept->selected, "vision.selected");
    return pc_qwen2_merge_forward(ctx, &kept->grid, &l->grid, kept->selected);
}

static void grid_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept, pc_tensor dy)
{
    const bool tower = tower_trains(l);
    const pc_tensor d = tower ? pc_alloc_like(ctx->scratch, kept->selected) : PC_NONE;
    pc_qwen2_merge_backward(ctx, d, &l->grid, &kept->grid, dy);
    if (tower) pc_qwen2_vision_backward(ctx, &l->grid, &kept->grid, d);
}

pc_tensor pc_vlm_features_forward(pc_ctx *ctx, pc_vlm_kept *kept, const pc_vlm *l,
                                  const pc_pictures *pictures)
{
    switch (l->config.visual) {
    case PC_VISUAL_TILES:
        kept->features = crops_forward(ctx, kept, l, pictures->pixels);
        kept->features =
            pc_pack_forward(ctx, &kept->pack, &l->config, l->newline.w, kept->features, pictures);
        break;
    case PC_VISUAL_GRID: kept->features = grid_forward(ctx, kept, l, pictures); break;
    case PC_VISUAL_HYBRID: kept->features = hybrid_forward(ctx, kept, l, pictures); break;
    case PC_VISUAL_SQUARE:
    case PC_VISUAL_RESAMPLER: kept->features = crops_forward(ctx, kept, l, pictures->pixels); break;
    }
    return kept->features;
}

static void tiles_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept,
                           const pc_pictures *pictures, pc_tensor dy)
{
    const bool crops = tower_trains(l) || connector_trains(l);
    pc_tensor d = PC_NONE;
    if (crops) d = pc_alloc2(ctx->scratch, ctx->real, kept->pack.to.dim[0], dy.dim[1]);
    pc_pack_backward(ctx, d, l->newline.g, &kept->pack, &l->config, dy, pictures);
    if (crops) crops_backward(ctx, l, kept, d);
}

void pc_vlm_features_backward(pc_ctx *ctx, pc_vlm *l, const pc_vlm_kept *kept,
                              const pc_pictures *pictures, pc_tensor dfeatures)
{
    switch (l->config.visual) {
    case PC_VISUAL_TILES: tiles_backward(ctx, l, kept, pictures, dfeatures); break;
    case PC_VISUAL_GRID: grid_backward(ctx, l, kept, dfeatures); break;
    case PC_VISUAL_HYBRID: hybrid_backward(ctx, l, kept, dfeatures); break;
    case PC_VISUAL_SQUARE:
    case PC_VISUAL_RESAMPLER: crops_backward(ctx, l, kept, dfeatures); break;
    }
}
