/*
 * pack.c - see pack.h.
 *
 *   features of all crops --to--> packed rows <--from_small-- small <--resize-- grid <--to_grid-- features
 *
 * An image of which the tiles are shrunk goes by `grid` (the lines kept of its tiles) and `small`; all others are
 * moved at once. newline_at names the rows that are newlines.
 */
#include "model/networks/pack.h"

#include "model/layers/taps.h"

static int64_t side_of(const pc_vlm_config *c)
{
    return c->vision.image_size / c->vision.patch;
}

static void plan(pc_tiles *tiles, pc_tile_grid *grid, const pc_vlm_config *c,
                 const pc_image_geometry *g)
{
    pc_tiles_choose(tiles, &c->pinpoints, c->vision.image_size, g->height, g->width);
    pc_tile_grid_plan(grid, tiles, side_of(c), g->height, g->width, c->max_tiles);
}

pc_status pc_pack_measure(pc_image_geometry *g, const pc_vlm_config *c)
{
    const int64_t most = 1 << 24;
    if (g->crops == 1) {
        g->rows = pc_tile_single_tokens(side_of(c));
        return PC_OK;
    }
    if (g->height < 1 || g->width < 1 || g->height > most || g->width > most)
        return pc_fail(PC_ERR_INPUT,
                       "an image of height %lld and width %lld; expected 1 to %lld pixels",
                       (long long)g->height, (long long)g->width, (long long)most);
    pc_tiles tiles;
    pc_tile_grid grid;
    plan(&tiles, &grid, c, g);
    g->crops = tiles.crops;
    g->rows = grid.tokens;
    return PC_OK;
}

void pc_pack_shrunk(int64_t *grid, int64_t *small, const pc_image_geometry *g,
                    const pc_vlm_config *c)
{
    pc_tiles tiles;
    pc_tile_grid v;
    *grid = *small = 0;
    if (g->crops == 1) return;
    plan(&tiles, &v, c, g);
    if (v.out_h == v.kept_h && v.out_w == v.kept_w) return;
    *grid = v.kept_h * v.kept_w;
    *small = v.out_h * v.out_w;
}

int64_t pc_pack_most(const pc_vlm_config *c)
{
    const int64_t side = side_of(c), P = side * side;
    // Features are shrunk when they are more than 1.1^2 times what max_tiles has.
    const double limit = c->max_tiles ? 1.21 * (double)(c->max_tiles * P) + 1.0 : 1e18;
    int64_t most = pc_tile_single_tokens(side);
    for (int i = 0; i < c->pinpoints.count; i++) {
        const int64_t h = c->pinpoints.hw[i][0] / c->vision.image_size * side;
        const int64_t w = c->pinpoints.hw[i][1] / c->vision.image_size * side;
        const int64_t tiles = (double)(h * w) < limit ? h * w : (int64_t)limit;
        if (P + tiles + h > most) most = P + tiles + h;
    }
    return most;
}

/* Where everything goes; counted dry or not, written only when not. */
typedef struct layout {
    const pc_vlm_config *c;
    int32_t *to, *to_grid, *from_small, *newline_at; // NULL: counting
    int64_t rows, crops, grid, small;                // so far
} layout;

static void put_newline(layout *y)
{
    if (y->newline_at) y->newline_at[y->rows] = 0;
    y->rows++;
}

/* Crop `crop` of the whole image's features, in order. */
static void put_whole(layout *y)
{
    const int64_t P = side_of(y->c) * side_of(y->c);
    for (int64_t p = 0; p < P && y->to; p++) y->to[y->crops * P + p] = (int32_t)(y->rows + p);
    y->rows += P;
    y->crops++;
}

/* The feature at (line, column) of the tiles side by side, as a row of all crops' features. */
static int64_t feature_at(const layout *y, const pc_tiles *t, int64_t line, int64_t column)
{
    const int64_t side = side_of(y->c);
    const int64_t tile = line / side * t->cols + column / side;
    return ((y->crops + tile) * side + line % side) * side + column % side;
}

static void put_tiles(layout *y, const pc_image_geometry *g)
{
    pc_tiles t;
    pc_tile_grid v;
    plan(&t, &v, y->c, g);
    PC_ASSERT(t.crops == g->crops && v.tokens == g->rows,
              "%lld crops, %lld rows; planned as %lld, %lld", (long long)t.crops,
              (long long)v.tokens, (long long)g->crops, (long long)g->rows);
    put_whole(y);
    const bool shrunk = v.out_h != v.kept_h || v.out_w != v.kept_w;
    for (int64_t i = 0; shrunk && i < v.kept_h && y->to_grid; i++)
        for (int64_t j = 0; j < v.kept_w; j++)
            y->to_grid[feature_at(y, &t, v.top + i, v.left + j)] =
                (int32_t)(y->grid + i * v.kept_w + j);
    for (int64_t i = 0; i < v.out_h; i++) {
        for (int64_t j = 0; j < v.out_w; j++, y->rows++) {
            if (shrunk && y->from_small)
                y->from_small[y->small + i * v.out_w + j] = (int32_t)y->rows;
            else if (!shrunk && y->to)
                y->to[feature_at(y, &t, v.top + i, v.left + j)] = (int32_t)y->rows;
        }
        put_newline(y);
    }
    if (shrunk) {
        y->grid += v.kept_h * v.kept_w;
        y->small += v.out_h * v.out_w;
    }
    y->crops += t.crops - 1;
}

static void lay_out(layout *y, const pc_pictures *pictures)
{
    for (int64_t i = 0; i < pictures->count; i++) {
        const pc_image_geometry *g = &pictures->geometry[i];
        if (g->crops == 1) {
            put_whole(y);
            put_newline(y);
        } else {
            put_tiles(y, g);
        }
    }
}

static pc_tensor none_yet(pc_arena *a, int64_t n)
{
    const pc_tensor x = pc_alloc1(a, PC_I32, n);
    for (int64_t i = 0; i < n && !a->dry; i++) pc_i32(x)[i] = -1;
    return x;
}

/* The index arrays, in the arena of what forward keeps. */
static void number(pc_ctx *ctx, pc_pack_kept *kept, const pc_vlm_config *c,
                   const pc_pictures *pictures, int64_t features)
{
    const int64_t P = side_of(c) * side_of(c);
    layout y = {.c = c};
    lay_out(&y, pictures);
    PC_ASSERT(y.crops * P == features, "%lld crops of %lld features, %lld given",
              (long long)y.crops, (long long)P, (long long)features);
    *kept = (pc_pack_kept){.rows = y.rows, .grid = y.grid, .small = y.small};
    kept->to = none_yet(ctx->act, features);
    kept->newline_at = none_yet(ctx->act, y.rows);
    if (y.grid) {
        kept->to_grid = none_yet(ctx->act, features);
        kept->from_small = none_yet(ctx->act, y.small);
    }
    if (ctx->act->dry) return;
    y = (layout){.c = c, .to = pc_i32(kept->to), .newline_at = pc_i32(kept->newline_at)};
    if (kept->grid) {
        y.to_grid = pc_i32(kept->to_grid);
        y.from_small = pc_i32(kept->from_small);
    }
    lay_out(&y, pictures);
}

typedef void each_shrunk(pc_ctx *ctx, pc_tensor small, pc_tensor grid, const pc_tile_grid *v);

/* Runs `f` on the rows of every image that is shrunk. */
static void for_shrunk(pc_ctx *ctx, each_shrunk *f, pc_tensor small, pc_tensor grid,
                       const pc_vlm_config *c, const pc_pictures *pictures)
{
    int64_t at_small = 0, at_grid = 0;
    for (int64_t i = 0; i < pictures->count; i++) {
        const pc_image_geometry *g = &pictures->geometry[i];
        pc_tiles t;
        pc_tile_grid v;
        if (g->crops == 1) continue;
        plan(&t, &v, c, g);
        if (v.out_h == v.kept_h && v.out_w == v.kept_w) continue;
        const int64_t out = v.out_h * v.out_w, in = v.kept_h * v.kept_w;
        f(ctx, pc_rows(small, at_small, at_small + out), pc_rows(grid, at_grid, at_grid + in), &v);
        at_small += out;
        at_grid += in;
    }
}

static void shrink(pc_ctx *ctx, pc_tensor small, pc_tensor grid, const pc_tile_grid *v)
{
    ctx->ops->resize_map_forward(ctx, small, grid, v->out_h, v->out_w, v->kept_h, v->kept_w);
}

static void shrink_backward(pc_ctx *ctx, pc_tensor dsmall, pc_tensor dgrid, const pc_tile_grid *v)
{
    ctx->grad_ops->resize_map_backward(ctx, dgrid, dsmall, v->out_h, v->out_w, v->kept_h,
                                       v->kept_w);
}

pc_tensor pc_pack_forward(pc_ctx *ctx, pc_pack_kept *kept, const pc_vlm_config *c,
                          pc_tensor newline, pc_tensor crops, const pc_pictures *pictures)
{
    const int64_t C = crops.dim[1];
    number(ctx, kept, c, pictures, crops.dim[0]);
    const pc_tensor y = pc_alloc2(ctx->act, ctx->real, kept->rows, C);
    ctx->ops->splice_forward(ctx, y, crops, kept->to);
    ctx->ops->embedding_forward(ctx, y, kept->newline_at, newline);
    if (kept->grid) {
        const size_t mark = pc_arena_mark(ctx->scratch);
        const pc_tensor grid = pc_alloc2(ctx->scratch, ctx->real, kept->grid, C);
        const pc_tensor small = pc_alloc2(ctx->scratch, ctx->real, kept->small, C);
        ctx->ops->splice_forward(ctx, grid, crops, kept->to_grid);
        for_shrunk(ctx, shrink, small, grid, c, pictures);
        ctx->ops->splice_forward(ctx, y, small, kept->from_small);
        pc_arena_release(ctx->scratch, mark);
    }
    pc_tap_add(ctx, y, "projector.packed");
    return y;
}

void pc_pack_backward(pc_ctx *ctx, pc_tensor dcrops, pc_tensor dnewline, const pc_pack_kept *kept,
                      const pc_vlm_config *c, pc_tensor dy, const pc_pictures *pictures)
{
    if (pc_present(dnewline))
        ctx->grad_ops->embedding_backward(ctx, dnewline, dy, kept->newline_at);
    if (!pc_present(dcrops)) return;
    ctx->grad_ops->splice_backward(ctx, dcrops, dy, kept->to);
    if (!kept->grid) return;
    const int64_t C = dy.dim[1];
    const size_t mark = pc_arena_mark(ctx->scratch);
    const pc_tensor dgrid = pc_alloc2(ctx->scratch, ctx->real, kept->grid, C);
    const pc_tensor dsmall = pc_alloc2(ctx->scratch, ctx->real, kept->small, C);
    const pc_tensor more = pc_alloc_like(ctx->scratch, dcrops);
    ctx->grad_ops->splice_backward(ctx, dsmall, dy, kept->from_small);
    for_shrunk(ctx, shrink_backward, dsmall, dgrid, c, pictures);
    ctx->grad_ops->splice_backward(ctx, more, dgrid, kept->to_grid);
    ctx->ops->add_forward(ctx, dcrops, dcrops, more);
    pc_arena_release(ctx->scratch, mark);
}
