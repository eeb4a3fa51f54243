/*
 * params.c - the list of parameters: listing, binding, initial values.
 */
#include "model/layers/linear.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t pc_params_push(pc_params *p, const char *fmt, ...)
{
    const size_t length = strlen(p->prefix);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(p->prefix + length, sizeof p->prefix - length, fmt, args);
    va_end(args);
    PC_ASSERT(n >= 0 && length + (size_t)n + 1 < sizeof p->prefix, "prefix '%s' is too long",
              p->prefix);
    strcat(p->prefix, ".");
    return length;
}

void pc_params_pop(pc_params *p, size_t length)
{
    p->prefix[length] = '\0';
}

void pc_param_add(pc_params *p, pc_weight *w, const char *name, pc_init init, double init_scale,
                  int rank, const int64_t *dim)
{
    *w = (pc_weight){0};
    if (p->status) return;
    if (p->count == p->capacity) {
        const int capacity = p->capacity ? 2 * p->capacity : 64;
        pc_param *grown = realloc(p->list, (size_t)capacity * sizeof *grown);
        if (!grown) {
            p->status = pc_fail(PC_ERR_MEMORY, "a list of %d parameters", capacity);
            return;
        }
        p->list = grown;
        p->capacity = capacity;
    }
    PC_ASSERT(rank >= 1 && rank <= PC_MAX_RANK, "'%s%s' has rank %d", p->prefix, name, rank);
    pc_param *q = &p->list[p->count++];
    *q = (pc_param){.weight = w,
                    .rank = rank,
                    .init = init,
                    .init_scale = init_scale,
                    .decay = rank >= 2,
                    .parts = 1,
                    .part_rows = {dim[0]},
                    .trainable = true,
                    .lr_scale = 1.0};
    for (int i = 0; i < rank; i++) {
        PC_ASSERT(dim[i] > 0, "'%s%s' has size %lld in dimension %d", p->prefix, name,
                  (long long)dim[i], i);
        q->dim[i] = dim[i];
    }
    const int n = snprintf(q->name, sizeof q->name, "%s%s", p->prefix, name);
    PC_ASSERT(n > 0 && (size_t)n < sizeof q->name, "'%s%s' is too long", p->prefix, name);
}

/* The newest parameter of a weight; NULL when listing has failed. */
static pc_param *listed(pc_params *p, const pc_weight *w)
{
    for (int i = p->count - 1; i >= 0; i--)
        if (p->list[i].weight == w) return &p->list[i];
    PC_ASSERT(p->status, "a weight behind '%s' is not listed", p->prefix);
    return NULL;
}

void pc_param_hidden(pc_params *p, const pc_weight *w, bool hidden)
{
    pc_param *q = listed(p, w);
    if (q) q->hidden = hidden;
}

void pc_param_fused(pc_params *p, const pc_weight *w, int parts, const int64_t *rows)
{
    pc_param *q = listed(p, w);
    if (!q) return;
    int64_t sum = 0;
    PC_ASSERT(parts >= 1 && parts <= 3, "'%s': %d parts", q->name, parts);
    for (int i = 0; i < parts; i++) sum += q->part_rows[i] = rows[i];
    PC_ASSERT(sum == q->dim[0], "'%s': parts of %lld rows, %lld in all", q->name, (long long)sum,
              (long long)q->dim[0]);
    q->parts = parts;
}

void pc_param_linear(pc_params *p, const pc_weight *w, struct pc_linear *linear)
{
    pc_param *q = listed(p, w);
    if (!q) return;
    q->linear = linear;
    q->stays = true;
}

void pc_param_fixed(pc_params *p, const pc_weight *w)
{
    pc_param *q = listed(p, w);
    if (!q) return;
    q->fixed = true;
    q->trainable = q->decay = false;
}

void pc_param_table(pc_params *p, const pc_weight *w)
{
    pc_param *q = listed(p, w);
    if (q) q->stays = true;
}

pc_status pc_params_end(pc_params *p)
{
    for (int i = 0; i < p->count; i++)
        for (int j = 0; j < i; j++)
            PC_ASSERT(strcmp(p->list[i].name, p->list[j].name), "'%s' is listed twice",
                      p->list[i].name);
    return p->status;
}

void pc_params_close(pc_params *p)
{
    free(p->list);
    *p = (pc_params){0};
}

pc_param *pc_params_find(pc_params *p, const char *name)
{
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->list[i].name, name)) return &p->list[i];
    return NULL;
}

static int64_t numel(const pc_param *q)
{
    int64_t n = 1;
    for (int i = 0; i < q->rank; i++) n *= q->dim[i];
    return n;
}

pc_dtype pc_param_type(const pc_param *q, pc_dtype t)
{
    return t == PC_BF16 && q->rank < 2 ? PC_F32 : t;
}

static size_t aligned_bytes(const pc_param *q, pc_dtype t)
{
    const size_t bytes = (size_t)numel(q) * pc_dtype_size(pc_param_type(q, t));
    return (bytes + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
}

int64_t pc_params_numel(const pc_params *p, bool trainable_only)
{
    int64_t n = 0;
    for (int i = 0; i < p->count; i++)
        if (!trainable_only || p->list[i].trainable) n += numel(&p->list[i]);
    return n;
}

size_t pc_params_bytes(const pc_params *p, pc_dtype t, bool trainable_only)
{
    size_t bytes = 0;
    for (int i = 0; i < p->count; i++)
        if (!trainable_only || p->list[i].trainable) bytes += aligned_bytes(&p->list[i], t);
    return bytes;
}

size_t pc_params_moment_bytes(const pc_params *p, pc_dtype t)
{
    return 2 * pc_params_bytes(p, t, true);
}

size_t pc_params_master_bytes(const pc_params *p)
{
    size_t bytes = 0;
    for (int i = 0; i < p->count; i++)
        if (p->list[i].trainable && p->list[i].rank >= 2)
            bytes += aligned_bytes(&p->list[i], PC_F32);
    return bytes;
}

int pc_params_train(pc_params *p, const char *prefix, bool trainable)
{
    int matched = 0;
    for (int i = 0; i < p->count; i++) {
        pc_param *q = &p->list[i];
        if (strncmp(q->name, prefix, strlen(prefix))) continue;
        q->trainable = trainable && !q->fixed;
        if (!q->trainable) q->weight->g = PC_NONE;
        matched++;
    }
    return matched;
}

static pc_tensor bind(const pc_param *q, pc_arena *a, pc_dtype t)
{
    pc_tensor x = {.dtype = pc_param_type(q, t), .rank = q->rank};
    for (int i = 0; i < q->rank; i++) x.dim[i] = q->dim[i];
    x.stride = pc_row_len(x);
    x.data = pc_arena_numbers(a, aligned_bytes(q, t));
    return x;
}

void pc_params_bind_weights(pc_params *p, pc_arena *a, pc_dtype t)
{
    pc_params_bind_weights_from(p, 0, a, t);
}

void pc_params_bind_weights_from(pc_params *p, int first, pc_arena *a, pc_dtype t)
{
    for (int i = first; i < p->count; i++) p->list[i].weight->w = bind(&p->list[i], a, t);
}

void pc_params_bind_absent(pc_params *p, pc_arena *a, pc_dtype t)
{
    for (int i = 0; i < p->count; i++) {
        const pc_param *q = &p->list[i];
        const bool placed = q->linear && q->linear->pieces > 0;
        if (!placed && !pc_present(q->weight->w)) q->weight->w = bind(q, a, t);
    }
}

void pc_params_bind_grads(pc_params *p, pc_arena *a, pc_dtype t)
{
    for (int i = 0; i < p->count; i++)
        p->list[i].weight->g = p->list[i].trainable ? bind(&p->list[i], a, t) : PC_NONE;
}

void pc_params_bind_moments(pc_params *p, pc_arena *a, pc_dtype t)
{
    for (int i = 0; i < p->count; i++) {
        pc_param *q = &p->list[i];
        q->m = q->v = PC_NONE;
        if (!q->trainable) continue;
        q->m = bind(q, a, t);
        q->v = bind(q, a, t);
        if (a->dry || a->memory) continue; // a device's are cleared by its own hand
        memset(q->m.data, 0, aligned_bytes(q, t));
        memset(q->v.data, 0, aligned_bytes(q, t));
    }
}

void pc_params_bind_masters(pc_params *p, pc_arena *a)
{
    for (int i = 0; i < p->count; i++) {
        pc_param *q = &p->list[i];
        const bool narrow = q->trainable && q->weight->w.dtype == PC_BF16;
        q->master = narrow ? bind(q, a, PC_F32) : PC_NONE;
    }
}

void pc_params_share_weights(pc_params *replica, const pc_params *master)
{
    PC_ASSERT(replica->count == master->count, "%d parameters, master %d", replica->count,
              master->count);
    for (int i = 0; i < replica->count; i++) {
        pc_param *q = &replica->list[i];
        PC_ASSERT(!strcmp(q->name, master->list[i].name), "'%s', master '%s'", q->name,
                  master->list[i].name);
        q->weight->w = master->list[i].weight->w;
        q->trainable = master->list[i].trainable;
        q->decay = master->list[i].decay;
        q->lr_scale = master->list[i].lr_scale;
    }
}

static double element(const pc_tensor *x, int64_t i)
{
    return x->dtype == PC_F64 ? ((const double *)x->data)[i] : (double)((const float *)x->data)[i];
}

/*
 * Element k of a table (n,C) of the places of a square grid, row by row (spec: qwen-vl.md 1): quarters of sin and cos
 * of the column, sin and cos of the line, frequency i of a quarter being 10000^(-i/(C/4)).
 */
static double place(const pc_param *q, int64_t k)
{
    const int64_t C = q->dim[1], quarter = C / 4, row = k / C, c = k % C;
    const int64_t side = llround(sqrt((double)q->dim[0]));
    const double at = (double)(c < 2 * quarter ? row % side : row / side);
    const double angle = at * pow(10000.0, -(double)(c % quarter) / (double)quarter);
    return c / quarter % 2 ? cos(angle) : sin(angle);
}

static void set(pc_tensor *x, int64_t i, double value)
{
    if (x->dtype == PC_F64)
        ((double *)x->data)[i] = value;
    else
        ((float *)x->data)[i] = (float)value;
}

void pc_params_init(pc_params *p, uint64_t seed)
{
    pc_params_init_from(p, 0, seed);
}

void pc_params_init_from(pc_params *p, int first, uint64_t seed)
{
    for (int i = first; i < p->count; i++) {
        pc_param *q = &p->list[i];
        pc_tensor *w = &q->weight->w;
        PC_ASSERT(pc_present(*w) && (w->dtype == PC_F32 || w->dtype == PC_F64),
                  "'%s' is not bound to f32 or f64 memory", q->name);
        const pc_rng_key key = {.seed = seed, .stream = PC_STREAM_INIT, .step = (uint64_t)i};
        const int64_t n = numel(q);
        for (int64_t k = 0; k < n; k++) {
            double value = 0.0;
            switch (q->init) {
            case PC_INIT_ZERO: break;
            case PC_INIT_ONE: value = 1.0; break;
            case PC_INIT_CONST: value = q->init_scale; break;
            case PC_INIT_PLACES: value = place(q, k); break;
            case PC_INIT_NORMAL: value = q->init_scale * pc_rng_normal(&key, (uint64_t)k); break;
            case PC_INIT_UNIFORM:
                value = q->init_scale * (2.0 * pc_rng_uniform(&key, (uint64_t)k) - 1.0);
                break;
            }
            set(w, k, value);
        }
    }
}

void pc_params_zero_grads(pc_params *p)
{
    for (int i = 0; i < p->count; i++) {
        const pc_tensor g = p->list[i].weight->g;
        if (pc_present(g)) memset(g.data, 0, (size_t)pc_numel(g) * pc_dtype_size(g.dtype));
    }
}

const pc_param *pc_params_nonfinite(const pc_params *p, bool grads)
{
    for (int i = 0; i < p->count; i++) {
        const pc_param *q = &p->list[i];
        const pc_tensor x = grads ? q->weight->g : q->weight->w;
        if (!pc_present(x)) continue;
        const int64_t n = pc_numel(x);
        for (int64_t k = 0; k < n; k++)
            if (!isfinite(element(&x, k))) return q;
    }
    return NULL;
}
