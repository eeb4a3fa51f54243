/*
 * plan.c - see plan.h.
 *
 * The batch that is run dry has real row numbers (kernels' dry versions and layers may look at them) but
 * pixels at an address that is never touched: sequences of equal length that together have the rows,
 * images and supervised rows of the largest micro-batch.
 */
#include "train/plan.h"

#include <stdlib.h>
#include <string.h>

// ---- a batch of given size -----------------------------------------------------------------------

typedef struct stand_in {
    pc_arena ids, pixels; // real, dry
    pc_micro_batch micro;
} stand_in;

static void close_stand_in(stand_in *s)
{
    pc_arena_close(&s->ids);
    pc_arena_close(&s->pixels);
}

static pc_tensor filled(pc_arena *a, int64_t n, int32_t value)
{
    pc_tensor t = pc_alloc1(a, PC_I32, n);
    for (int64_t i = 0; i < n; i++) pc_i32(t)[i] = value;
    return t;
}

// S sequences of equal length over N rows, each row seeing its sequence up to itself.
static void even_mask(pc_mask *mask, pc_arena *a, int64_t N, int64_t S, bool prefix)
{
    mask->S = S;
    if (prefix) { // as branches behind one image have
        mask->plo = filled(a, N, 0);
        mask->phi = filled(a, N, 0);
    }
    mask->q_off = mask->k_off = filled(a, S + 1, 0);
    mask->lo = filled(a, N, 0);
    mask->hi = filled(a, N, 0);
    for (int64_t s = 0; s < S; s++) {
        const int64_t begin = N * s / S, end = N * (s + 1) / S;
        pc_i32(mask->q_off)[s + 1] = (int32_t)end;
        for (int64_t n = begin; n < end; n++) {
            pc_i32(mask->lo)[n] = (int32_t)begin;
            pc_i32(mask->hi)[n] = (int32_t)n + 1;
            mask->pairs += (double)(n + 1 - begin);
        }
    }
}

static pc_tensor dry_pixels(pc_arena *a, int64_t images, int64_t size)
{
    pc_arena_open_dry(a, "pixels");
    if (images == 0) return PC_NONE;
    return pc_view4(pc_arena_bytes(a, (size_t)(images * 3 * size * size) * sizeof(float)), PC_F32,
                    images, 3, size, size);
}

static int64_t feature_rows(const pc_vlm_config *c, const plan_batch *b)
{
    int64_t rows = 0;
    if (!b->geometry) return b->images * pc_vlm_rows_per_image(c);
    for (int64_t i = 0; i < b->images; i++) rows += b->geometry[i].rows;
    return rows;
}

// What the eyes are given, in a dry arena.
static void dry_pictures(pc_pictures *p, pc_arena *a, const pc_vlm_config *c, const plan_batch *b)
{
    int64_t crops = 0, patches = 0;
    *p = (pc_pictures){.count = b->images, .geometry = b->geometry};
    for (int64_t i = 0; i < b->images && b->geometry; i++) {
        crops += b->geometry[i].crops;
        patches += b->geometry[i].t * b->geometry[i].h * b->geometry[i].w;
    }
    p->pixels = dry_pixels(a, b->geometry ? crops : b->images, c->vision.image_size);
    if (b->images == 0) return;
    if (c->visual == PC_VISUAL_GRID)
        p->patches =
            pc_alloc2(a, PC_F32, patches, 3 * c->vision.frames * c->vision.patch * c->vision.patch);
    if (c->visual == PC_VISUAL_HYBRID)
        p->high = pc_view4(pc_arena_bytes(a, (size_t)(b->images * 3 * c->high.image_size *
                                                      c->high.image_size) *
                                                 sizeof(float)),
                           PC_F32, b->images, 3, c->high.image_size, c->high.image_size);
}

static pc_status open_stand_in(stand_in *s, const pc_model *m, const plan_batch *b)
{
    *s = (stand_in){0};
    const int64_t N = b->rows, S = b->samples;
    const bool vlm = m->config.kind == PC_MODEL_VLM;
    const int64_t features = vlm ? feature_rows(&m->config.vlm, b) : 0;
    const int64_t numbers = 11 * N + features + 4 * (S + 1);
    pc_status st = pc_arena_open(&s->ids, "plan", (size_t)numbers * 4 + 64 * PC_ALIGN);
    if (st) return st;
    s->micro.samples = S;
    if (!vlm) {
        pc_text_batch *t = &s->micro.text;
        s->micro.pixels = dry_pixels(&s->pixels, S, m->config.clip.vision.image_size);
        t->ids = filled(&s->ids, N, 0);
        t->pos = filled(&s->ids, N, 0);
        t->pooled = filled(&s->ids, S, 0);
        even_mask(&t->mask, &s->ids, N, S, false);
        return PC_OK;
    }
    pc_vlm_batch *v = &s->micro.vlm;
    v->N = N;
    v->pictures.count = b->images;
    v->supervised = b->supervised;
    dry_pictures(&v->pictures, &s->pixels, &m->config.vlm, b);
    v->ids = filled(&s->ids, N, 0);
    v->pos = filled(&s->ids, N, 0);
    if (pc_decoder_axes(&m->config.vlm.decoder)) v->pos_y = filled(&s->ids, N, 0);
    if (v->pos_y.data && !m->config.vlm.decoder.rope_2d) v->pos_z = filled(&s->ids, N, 0);
    v->labels = filled(&s->ids, N, -1);
    for (int64_t n = 0; n < b->supervised; n++) pc_i32(v->labels)[n] = 0;
    v->image_rows = filled(&s->ids, features, 0);
    for (int64_t i = 0; i < features && i < N; i++) {
        pc_i32(v->image_rows)[i] = (int32_t)i;
        pc_i32(v->ids)[i] = -1;
    }
    even_mask(&v->mask, &s->ids, N, S, true);
    return PC_OK;
}

// ---- dry runs ------------------------------------------------------------------------------------

typedef struct measured {
    size_t act, scratch, act_shared, scratch_shared;
    double flops;
} measured;

typedef struct dry_run {
    pc_arena act, scratch;
    pc_fp8 fp8; // that there is one
    pc_ctx ctx;
} dry_run;

static void open_dry(dry_run *d, const plan_request *q, bool train)
{
    pc_arena_open_dry_in(&d->act, "activations", q->memory);
    pc_arena_open_dry_in(&d->scratch, "scratch", q->memory);
    d->ctx = (pc_ctx){.ops = pc_dry_ops(),
                      .grad_ops = train ? pc_dry_grad_ops() : NULL,
                      .real = q->real,
                      .fp8 = q->fp8 && train ? &d->fp8 : NULL,
                      .pool = q->samples ? NULL : q->pool,
                      .act = &d->act,
                      .scratch = &d->scratch,
                      .dropout = train ? q->dropout : 0.0,
                      .adapter_dropout = train ? q->adapter_dropout : 0.0};
}

static measured result(const dry_run *d)
{
    return (measured){d->act.peak, d->scratch.peak, d->act.shared_peak, d->scratch.shared_peak,
                      d->ctx.flops};
}

static pc_tensor dry_rows(pc_arena *a, int64_t rows, int64_t width, bool wanted)
{
    return wanted ? pc_alloc2(a, PC_F32, rows, width) : PC_NONE;
}

// `kept` micro-batches forward, then backward, as contrastive.c does; kept 0: forward alone.
static pc_status dry_towers(measured *out, const plan_request *q, const plan_batch *b, int64_t kept)
{
    stand_in s;
    dry_run d;
    pc_clip *l = &q->model->clip;
    pc_clip_kept *held = calloc((size_t)(kept + 1), sizeof *held);
    pc_status st = held ? open_stand_in(&s, q->model, b) : pc_fail(PC_ERR_MEMORY, "plan");
    if (st) {
        free(held);
        return st;
    }
    open_dry(&d, q, kept > 0);
    const int64_t E = q->model->config.clip.text.E;
    pc_arena rows;
    pc_arena_open_dry(&rows, "rows");
    const pc_tensor du =
        dry_rows(&rows, b->samples, E, objective_trains(&q->model->params, "vision."));
    const pc_tensor dv =
        dry_rows(&rows, b->samples, E, objective_trains(&q->model->params, "text."));
    if (kept == 0) contrastive_forward(&d.ctx, l, held, &s.micro);
    for (int64_t i = 0; i < kept; i++) contrastive_forward(&d.ctx, l, &held[i], &s.micro);
    for (int64_t i = kept - 1; i >= 0; i--)
        contrastive_backward(&d.ctx, l, &held[i], &s.micro, du, dv);
    *out = result(&d);
    free(held);
    close_stand_in(&s);
    return PC_OK;
}

static pc_status dry_tokens(measured *out, const plan_request *q, const plan_batch *b, bool train)
{
    stand_in s;
    dry_run d;
    pc_status st = open_stand_in(&s, q->model, b);
    if (st) return st;
    open_dry(&d, q, train);
    if (train)
        instruction_micro(&d.ctx, &q->model->vlm, &s.micro.vlm, 1.0);
    else
        instruction_score(&d.ctx, &q->model->vlm, &s.micro.vlm, NULL);
    *out = result(&d);
    close_stand_in(&s);
    return PC_OK;
}

// The whole batch's loss of two towers.
static measured dry_whole(const plan_request *q)
{
    dry_run d;
    const int64_t E = q->model->config.clip.text.E;
    plan_request all = *q;
    all.samples = false; // it has every thread
    open_dry(&d, &all, true);
    const pc_tensor U = pc_alloc2(&d.act, PC_F32, q->batch, E);
    const pc_tensor V = pc_alloc2(&d.act, PC_F32, q->batch, E);
    const pc_tensor dU = pc_alloc2(&d.act, PC_F32, q->batch, E);
    const pc_tensor dV = pc_alloc2(&d.act, PC_F32, q->batch, E);
    pc_clip_loss_backward(&d.ctx, dU, dV, &q->model->clip, U, V);
    return result(&d);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

// ---- the plan ------------------------------------------------------------------------------------

static pc_status plan_towers(plan *p, const plan_request *q)
{
    const int64_t micros = q->batch / q->train.samples;
    const int64_t share = (micros + q->replicas - 1) / q->replicas;
    p->kept = q->keep_all ? share : 1;
    measured one, all, eval = {0}, forward;
    pc_status st = dry_towers(&one, q, &q->train, 1);
    if (!st) st = dry_towers(&all, q, &q->train, p->kept);
    if (!st) st = dry_towers(&forward, q, &q->train, 0);
    if (!st && q->val.samples) st = dry_towers(&eval, q, &q->val, 0);
    if (st) return st;
    const measured whole = dry_whole(q);
    p->sizes.act = larger(all.act, eval.act);
    p->sizes.scratch = larger(larger(all.scratch, eval.scratch), whole.scratch);
    p->sizes.whole = whole.act;
    // Shared parts of micro-batches that are replayed come on top: nothing of them is used twice in a step.
    const size_t rounds = (size_t)(2 * share);
    p->sizes.act_shared = rounds * larger(one.act_shared, eval.act_shared);
    p->sizes.scratch_shared =
        rounds * larger(one.scratch_shared, eval.scratch_shared) + whole.scratch_shared;
    // Validation's rows are placed there.
    const size_t rows_bytes = (size_t)(q->batch * q->model->config.clip.text.E) * sizeof(float);
    p->sizes.whole_shared = 2 * (whole.act_shared + rows_bytes + PC_ALIGN);
    p->flops_step = one.flops * (double)micros + whole.flops;
    const int64_t replayed = micros - p->kept * q->replicas;
    if (replayed > 0) p->flops_step += forward.flops * (double)replayed;

    // Text rows vary from batch to batch, images do not.
    plan_batch short_text = q->train;
    short_text.rows = (q->train.rows + 1) / 2;
    measured half;
    if (short_text.rows < short_text.samples || (st = dry_towers(&half, q, &short_text, 1)))
        return st;
    const double rows = (double)(q->train.rows - short_text.rows);
    p->flops_row = rows > 0 ? (one.flops - half.flops) / rows : 0.0;
    p->flops_image = (p->flops_step / (double)micros - p->flops_row * (double)q->train.rows) /
                     (double)q->train.samples;
    return PC_OK;
}

static pc_status plan_tokens(plan *p, const plan_request *q)
{
    const int64_t micros = q->batch / q->train.samples;
    measured full, eval = {0}, fewer = {0}, blind = {0};
    p->kept = 1;
    pc_status st = dry_tokens(&full, q, &q->train, true);
    if (!st && q->val.samples) st = dry_tokens(&eval, q, &q->val, false);
    // One supervised row less, no images: what each of them costs is the difference.
    plan_batch b = q->train;
    b.supervised = 1;
    if (!st) st = dry_tokens(&fewer, q, &b, true);
    b = q->train;
    b.images = 0;
    if (!st && q->train.images) st = dry_tokens(&blind, q, &b, true);
    if (st) return st;
    p->sizes.act = larger(full.act, eval.act);
    p->sizes.scratch = larger(full.scratch, eval.scratch);
    p->sizes.act_shared = (size_t)micros * larger(full.act_shared, eval.act_shared);
    p->sizes.scratch_shared = (size_t)micros * larger(full.scratch_shared, eval.scratch_shared);
    p->flops_step = full.flops * (double)micros;
    double rest = full.flops;
    if (q->train.supervised > 1) {
        p->flops_supervised = (full.flops - fewer.flops) / (double)(q->train.supervised - 1);
        rest -= p->flops_supervised * (double)q->train.supervised;
    }
    if (q->train.images) {
        p->flops_image = (full.flops - blind.flops) / (double)q->train.images;
        rest -= p->flops_image * (double)q->train.images;
    }
    p->flops_row = rest / (double)q->train.rows;
    return PC_OK;
}

pc_status plan_make(plan *out, const plan_request *q)
{
    *out = (plan){.limit = q->limit, .data = q->data};
    pc_params *params = &q->model->params;
    pc_arena grads;
    pc_arena_open_dry(&grads, "gradients");
    pc_params_bind_grads(params, &grads, q->gradients); // dry: their presence is what counts
    pc_status st =
        q->model->config.kind == PC_MODEL_CLIP ? plan_towers(out, q) : plan_tokens(out, q);
    for (int i = 0; i < params->count; i++) params->list[i].weight->g = PC_NONE;
    if (st) return pc_context(st, "plan");

    const size_t R = (size_t)q->replicas;
    out->numbers = pc_params_numel(params, false);
    out->trained = pc_params_numel(params, true);
    out->parameters =
        q->memory ? pc_placement_bytes(params, q->real) : pc_params_bytes(params, PC_F32, false);
    if (q->fp8) out->eights = fp8_bytes(params);
    out->gradients = R * pc_params_bytes(params, q->gradients, true);
    out->moments = pc_params_moment_bytes(params, q->moments);
    if (q->master && q->real == PC_BF16) out->masters = pc_params_master_bytes(params);
    out->activations = R * out->sizes.act;
    out->scratch = R * out->sizes.scratch;
    if (q->muon)
        out->scratch += (size_t)(q->memory ? 1 : pc_pool_threads(q->pool)) *
                        muon_bytes(params, q->memory, q->real);
    out->whole = out->sizes.whole;
    out->device = plan_device_room(q);
    out->total = out->parameters + out->eights + out->gradients + out->moments + out->masters +
                 out->activations + out->scratch + out->whole + out->device +
                 (q->memory ? 0 : out->data);
    return PC_OK;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * The largest workspace of a kernel, which grows by a quarter more than it must: logits of a part of the rows and their
 * gradients, or scores of a part of the batch (ops/cuda: xent.cu, contrast.cu). Then that of the matrix products, what
 * host and device hand over, and the kernels themselves.
 */
size_t plan_device_room(const plan_request *q)
{
    const size_t mib = (size_t)1 << 20, type = pc_dtype_size(q->real);
    if (!q->memory) return 0;
    size_t work;
    if (q->model->config.kind == PC_MODEL_CLIP) {
        const size_t B = (size_t)q->batch, E = (size_t)q->model->config.clip.text.E;
        work = smaller(256 * mib, B * B * sizeof(float)) + 3 * B * E * sizeof(float);
    } else {
        const pc_decoder_config *c = &q->model->config.vlm.decoder;
        const size_t N = (size_t)q->train.rows, V = (size_t)c->V, C = (size_t)c->C;
        const size_t R = smaller(N, 256 * mib / (V * type));
        work = smaller(128 * mib, N * V * sizeof(float)) + 2 * R * C * type;
        if (q->real == PC_BF16) work += R * V * type;
    }
    return work + work / 4 + (64 + 32 + 128) * mib;
}

static void set_recompute(pc_recompute *config, pc_transformer *blocks, pc_recompute how)
{
    *config = how;
    blocks->config.recompute = how;
}

void plan_recompute(pc_model *m, pc_recompute how)
{
    pc_clip_config *clip = &m->config.clip;
    pc_vlm_config *vlm = &m->config.vlm;
    if (m->config.kind == PC_MODEL_CLIP) {
        clip->vision.recompute = clip->text.recompute = how;
        m->clip.config.vision.recompute = m->clip.config.text.recompute = how;
        set_recompute(&m->clip.vision.config.recompute, &m->clip.vision.blocks, how);
        set_recompute(&m->clip.text.config.recompute, &m->clip.text.blocks, how);
    } else {
        vlm->vision.recompute = vlm->decoder.recompute = how;
        m->vlm.config.vision.recompute = m->vlm.config.decoder.recompute = how;
        set_recompute(&m->vlm.vision.config.recompute, &m->vlm.vision.blocks, how);
        set_recompute(&m->vlm.decoder.config.recompute, &m->vlm.decoder.blocks, how);
        set_recompute(&m->vlm.grid.config.recompute, &m->vlm.grid.blocks, how);
        vlm->high.recompute = m->vlm.config.high.recompute = how;
        m->vlm.hybrid.sam.config.recompute = how;
    }
}

// ---- the machine ---------------------------------------------------------------------------------

// The number behind `key` in a file of "key value" lines (or the file's first number, key ""), or -1.
static double read_number(const char *path, const char *key)
{
    char line[256];
    double found = -1.0;
    FILE *f = fopen(path, "r");
    if (!f) return -1.0;
    while (found < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) {
            char *end, *at = line + strlen(key);
            const double x = strtod(at, &end);
            if (end != at) found = x;
        }
    fclose(f);
    return found;
}

size_t plan_machine_memory(void)
{
    double bytes = read_number("/proc/meminfo", "MemAvailable:") * 1024.0;
    // Inside a container the control group's limit counts; the file says "max" where there is none.
    const double max = read_number("/sys/fs/cgroup/memory.max", "");
    const double used = read_number("/sys/fs/cgroup/memory.current", "");
    const double cache = read_number("/sys/fs/cgroup/memory.stat", "inactive_file ");
    if (max > 0 && used >= 0) {
        const double left = max - used + (cache > 0 ? cache : 0);
        if (bytes < 0 || left < bytes) bytes = left;
    }
    return bytes > 0 ? (size_t)bytes : SIZE_MAX;
}

const char *plan_bytes(char *buf, size_t size, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (bytes >= 1024.0 && u < 4) bytes /= 1024.0, u++;
    snprintf(buf, size, u && bytes < 100 ? "%.1f %s" : "%.0f %s", bytes, units[u]);
    return buf;
}

void plan_print(FILE *out, const plan *p)
{
    const struct {
        const char *what;
        double bytes;
    } rows[] = {{"parameters", (double)p->parameters},
                {"the same in fp8", (double)p->eights},
                {"gradients", (double)p->gradients},
                {"AdamW's moments", (double)p->moments},
                {"fp32 masters", (double)p->masters},
                {"activations", (double)p->activations},
                {"scratch", (double)p->scratch},
                {"whole batch", (double)p->whole},
                {"the device's own", (double)p->device},
                {"data", (double)p->data},
                {"in all", (double)p->total},
                {"may take", (double)p->limit}};
    char text[32];
    fprintf(out, "%lld parameters, %lld of them trained\n", (long long)p->numbers,
            (long long)p->trained);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].bytes > 0)
            fprintf(out, "  %-16s %12s\n", rows[i].what,
                    plan_bytes(text, sizeof text, rows[i].bytes));
    fprintf(out, "  %-16s %12.3g\n", "FLOPs a step", p->flops_step);
}
