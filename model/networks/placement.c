/*
 * placement.c - see placement.h.
 */
#include "model/networks/placement.h"

#include <stdlib.h>
#include <string.h>

#include "model/core/quant.h"

enum { W, G, M, V, MASTER, KINDS };
enum { STAGED = 16 << 20 }; // numbers that change their type at a time

static pc_tensor *tensor_of(pc_param *p, int kind)
{
    switch (kind) {
    case W: return &p->weight->w;
    case G: return &p->weight->g;
    case M: return &p->m;
    case V: return &p->v;
    default: return &p->master;
    }
}

static int64_t numel(const pc_param *q)
{
    int64_t n = 1;
    for (int i = 0; i < q->rank; i++) n *= q->dim[i];
    return n;
}

static size_t rounded(size_t bytes)
{
    return (bytes + PC_ALIGN - 1) / PC_ALIGN * PC_ALIGN;
}

// The tables of rotary positions of a model: decoder and eyes.
enum { ROPES = 2, TABLES = 2 + 2 * PC_ROPE_AXES };

static pc_tensor *table_of(pc_model *m, int rope, int i)
{
    pc_rope *r = rope == 0 ? &m->vlm.decoder.rope : &m->vlm.grid.rope;
    if (i < 2) return i == 0 ? &r->cos_table : &r->sin_table;
    i -= 2;
    return i < PC_ROPE_AXES ? &r->cos_axis[i] : &r->sin_axis[i - PC_ROPE_AXES];
}

static size_t table_bytes(pc_model *m)
{
    size_t bytes = 0;
    for (int r = 0; r < ROPES && m->config.kind == PC_MODEL_VLM; r++)
        for (int i = 0; i < TABLES; i++) {
            const pc_tensor x = *table_of(m, r, i);
            if (pc_present(x)) bytes += rounded((size_t)pc_numel(x) * sizeof(float));
        }
    return bytes;
}

static pc_status check(const pc_model *m, const pc_memory *memory)
{
    if (m->config.kind == PC_MODEL_VLM && m->config.vlm.decoder.rope.scaling == PC_ROPE_DYNAMIC)
        return pc_fail(PC_ERR_INPUT,
                       "%s does not make rotary tables by the length of a pass "
                       "(decoder.rope_scaling: dynamic): use device: cpu",
                       memory->name);
    for (int i = 0; i < m->params.count; i++) {
        const pc_param *q = &m->params.list[i];
        if (!pc_present(q->weight->w) && !(q->linear && q->linear->pieces))
            return pc_fail(PC_ERR_INPUT, "'%s' has no numbers to put on %s", q->name, memory->name);
    }
    return PC_OK;
}

// ---- between host and device, and types ----------------------------------------------------------

static pc_tensor flat(void *data, pc_dtype t, int64_t n)
{
    return pc_view2(data, t, 1, n);
}

// n numbers of the host's, of any type, into the device's `to`, of type t.
static void send(pc_placement *p, void *to, pc_dtype t, const void *from, pc_dtype type, int64_t n)
{
    if (type == t) {
        p->memory->copy(to, from, pc_dtype_bytes(t, n));
        return;
    }
    // Types the device does not change are widened by the host first, a piece at a time.
    const pc_dtype over = type == PC_BF16 ? PC_BF16 : PC_F32;
    const pc_quant_type *decode =
        type == PC_F32 || type == PC_BF16 ? NULL : pc_quant_find(pc_dtype_quant(type));
    pc_ctx ctx = {.ops = p->ops, .real = PC_F32, .act = &p->staging, .scratch = &p->staging};
    float *wide = decode ? malloc((size_t)STAGED * sizeof *wide) : NULL;
    PC_ASSERT(!decode || wide, "no memory to widen weights");
    for (int64_t at = 0; at < n; at += STAGED) {
        const int64_t count = n - at < STAGED ? n - at : STAGED;
        const void *piece = (const unsigned char *)from + pc_dtype_bytes(type, at);
        if (decode) {
            pc_quant_decode(decode, wide, piece, count);
            piece = wide;
        }
        p->memory->copy(p->staging.base, piece, (size_t)count * pc_dtype_size(over));
        void *here = (unsigned char *)to + (size_t)at * pc_dtype_size(t);
        p->ops->copy_forward(&ctx, flat(here, t, count), flat(p->staging.base, over, count));
        if (decode) p->memory->wait(); // before `wide` is written again
    }
    free(wide);
}

// The device's tensor as f32 into the host's memory.
static void fetch(pc_placement *p, float *to, pc_tensor from)
{
    const int64_t n = pc_numel(from);
    if (from.dtype == PC_F32) {
        p->memory->copy(to, from.data, (size_t)n * sizeof *to);
        return;
    }
    pc_ctx ctx = {.ops = p->ops, .real = PC_F32, .act = &p->staging, .scratch = &p->staging};
    for (int64_t at = 0; at < n; at += STAGED) {
        const int64_t count = n - at < STAGED ? n - at : STAGED;
        void *here = (unsigned char *)from.data + (size_t)at * pc_dtype_size(from.dtype);
        p->ops->copy_forward(&ctx, flat(p->staging.base, PC_F32, count),
                             flat(here, from.dtype, count));
        p->memory->copy(to + at, p->staging.base, (size_t)count * sizeof *to);
    }
}

// A parameter's numbers on the host into its device tensor.
static void send_weight(pc_placement *p, const pc_param *q, pc_tensor to, pc_tensor host)
{
    unsigned char *at = to.data;
    if (pc_present(host)) {
        send(p, at, to.dtype, host.data, host.dtype, numel(q));
        return;
    }
    for (int i = 0; i < q->linear->pieces; i++) {
        const pc_tensor piece = q->linear->piece[i];
        send(p, at, to.dtype, piece.data, piece.dtype, pc_numel(piece));
        at += pc_dtype_bytes(to.dtype, pc_numel(piece));
    }
}

// ---- open, close ---------------------------------------------------------------------------------

size_t pc_placement_bytes(const pc_params *p, pc_dtype real)
{
    return pc_params_bytes(p, real, false) + (size_t)STAGED * sizeof(float) + 2 * PC_ALIGN;
}

// In bf16 a matrix of blocks that kernels read as they lie stays what it is; else by rank.
static pc_dtype placed_type(const pc_param *q, pc_dtype real)
{
    const int pieces = q->linear ? q->linear->pieces : 0;
    const pc_dtype t = pieces ? q->linear->piece[0].dtype : q->weight->w.dtype;
    bool stays = real == PC_BF16 && q->stays && (t == PC_Q8_0 || t == PC_Q4_0);
    for (int i = 1; i < pieces; i++) stays = stays && q->linear->piece[i].dtype == t;
    return stays ? t : pc_param_type(q, real);
}

static size_t placed_bytes(const pc_params *p, pc_dtype real)
{
    size_t bytes = 0;
    for (int i = 0; i < p->count; i++)
        bytes += rounded(pc_dtype_bytes(placed_type(&p->list[i], real), numel(&p->list[i])));
    return bytes;
}

static void bind_weight(pc_placement *p, pc_param *q, pc_dtype real)
{
    pc_tensor x = {.dtype = placed_type(q, real), .rank = q->rank};
    for (int i = 0; i < q->rank; i++) x.dim[i] = q->dim[i];
    x.stride = pc_row_len(x);
    x.data = pc_arena_numbers(&p->arena, rounded(pc_dtype_bytes(x.dtype, numel(q))));
    q->weight->w = x;
}

static void place_table(pc_placement *p, pc_tensor *x)
{
    if (!pc_present(*x)) return;
    const pc_tensor y = pc_alloc_like(&p->arena, *x);
    p->memory->copy(y.data, x->data, (size_t)pc_numel(*x) * sizeof(float));
    *x = y;
}

pc_status pc_placement_open(pc_placement *out, pc_model *m, const pc_backend *b)
{
    const pc_memory *memory = b->memory;
    pc_params *params = &m->params;
    *out = (pc_placement){0};
    if (!memory) return PC_OK;
    pc_status st = check(m, memory);
    if (st) return st;
    *out = (pc_placement){.memory = memory, .ops = pc_backend_ops(b), .params = params};
    out->list = calloc((size_t)params->count + 1, sizeof *out->list);
    st = out->list ? PC_OK : pc_fail(PC_ERR_MEMORY, "parameters");
    const size_t bytes = placed_bytes(params, b->real) + table_bytes(m) + PC_ALIGN;
    if (!st) st = pc_arena_open_in(&out->arena, "weights", memory, bytes, 0);
    if (!st)
        st = pc_arena_open_in(&out->staging, "weights' staging", memory,
                              (size_t)STAGED * sizeof(float), 0);
    if (st) {
        pc_arena_close(&out->arena);
        free(out->list);
        *out = (pc_placement){0};
        return st;
    }
    pc_tensor *hosts = malloc(((size_t)params->count + 1) * sizeof *hosts);
    PC_ASSERT(hosts, "no memory for a list of weights");
    for (int i = 0; i < params->count; i++) hosts[i] = params->list[i].weight->w;
    for (int i = 0; i < params->count; i++) bind_weight(out, &params->list[i], b->real);
    for (int i = 0; i < params->count; i++) {
        pc_param *q = &params->list[i];
        out->list[i].host = hosts[i];
        send_weight(out, q, q->weight->w, hosts[i]);
        if (!q->linear) continue;
        out->list[i].pieces = q->linear->pieces;
        q->linear->pieces = 0;
    }
    free(hosts);
    for (int r = 0; r < ROPES && m->config.kind == PC_MODEL_VLM; r++)
        for (int i = 0; i < TABLES; i++) place_table(out, table_of(m, r, i));
    memory->wait();
    return PC_OK;
}

static void give_back(pc_placement *p, int i)
{
    pc_param *q = &p->params->list[i];
    q->weight->w = p->list[i].host;
    if (q->linear) q->linear->pieces = p->list[i].pieces;
}

void pc_placement_close(pc_placement *p)
{
    for (int i = 0; p->memory && i < p->params->count; i++) give_back(p, i);
    free(p->list);
    pc_arena_close(&p->arena);
    pc_arena_close(&p->staging);
    pc_arena_close(&p->extra);
    *p = (pc_placement){0};
}

pc_dtype pc_placement_precision(const pc_model *m, const pc_backend *b)
{
    const char *asked = getenv("PERCEPT_PRECISION");
    if (!b->memory) return PC_F32;
    if (asked && !strcmp(asked, "fp32")) return PC_F32;
    if (asked && !strcmp(asked, "bf16")) return PC_BF16;
    for (int i = 0; i < m->params.count; i++) {
        const pc_param *q = &m->params.list[i];
        const bool pieces = q->linear && q->linear->pieces;
        const pc_dtype t = pieces ? q->linear->piece[0].dtype : q->weight->w.dtype;
        if (q->rank >= 2 && t != PC_F32) return PC_BF16;
    }
    return PC_F32;
}

// ---- there and back ------------------------------------------------------------------------------

void pc_placement_masters(pc_placement *p)
{
    for (int i = 0; p->memory && i < p->params->count; i++) {
        const pc_param *q = &p->params->list[i];
        if (pc_present(q->master)) send_weight(p, q, q->master, p->list[i].host);
    }
    if (p->memory) p->memory->wait();
}

// Whether the host's own numbers of a parameter are f32 that may be written.
static bool own(const struct pc_placed *s, const pc_param *q)
{
    return !q->stays || s->host.dtype == PC_F32;
}

static bool fetched(const struct pc_placed *s, pc_param *q, int kind)
{
    return pc_present(s->device[kind]) && kind != MASTER && (kind != W || q->trainable);
}

pc_status pc_placement_fetch(pc_placement *p)
{
    if (!p->memory) return PC_OK;
    size_t bytes = 0;
    for (int i = 0; i < p->params->count; i++) {
        pc_param *q = &p->params->list[i];
        struct pc_placed *s = &p->list[i];
        for (int k = W; k < KINDS; k++) s->device[k] = *tensor_of(q, k);
        for (int k = W; k < KINDS; k++)
            if (fetched(s, q, k) && !(k == W && own(s, q)))
                bytes += rounded((size_t)numel(q) * sizeof(float));
    }
    if (!p->extra.base || p->extra.size < bytes) {
        pc_arena_close(&p->extra);
        const pc_status st =
            pc_arena_open(&p->extra, "the host's copy of weights and moments", bytes);
        if (st) return st;
    }
    pc_arena_release(&p->extra, 0);
    for (int i = 0; i < p->params->count; i++) {
        pc_param *q = &p->params->list[i];
        struct pc_placed *s = &p->list[i];
        for (int k = W; k < KINDS; k++) {
            pc_tensor *x = tensor_of(q, k);
            if (!fetched(s, q, k)) continue;
            const bool mine = k == W && own(s, q);
            x->data = mine ? s->host.data
                           : pc_arena_bytes(&p->extra, rounded((size_t)numel(q) * sizeof(float)));
            x->dtype = PC_F32;
            const bool master = k == W && pc_present(s->device[MASTER]);
            fetch(p, x->data, s->device[master ? MASTER : k]);
        }
        if (!q->trainable) give_back(p, i);
    }
    p->memory->wait();
    return PC_OK;
}

void pc_placement_upload(pc_placement *p)
{
    for (int i = 0; p->memory && i < p->params->count; i++) {
        pc_param *q = &p->params->list[i];
        const struct pc_placed *s = &p->list[i];
        send_weight(p, q, s->device[W], q->weight->w);
        if (pc_present(s->device[MASTER])) send_weight(p, q, s->device[MASTER], q->weight->w);
        for (int k = G; k <= V; k++) {
            const pc_tensor x = *tensor_of(q, k);
            if (pc_present(x))
                send(p, s->device[k].data, s->device[k].dtype, x.data, x.dtype, numel(q));
        }
    }
    if (p->memory) p->memory->wait();
}

void pc_placement_return(pc_placement *p)
{
    for (int i = 0; p->memory && i < p->params->count; i++) {
        pc_param *q = &p->params->list[i];
        for (int k = W; k < KINDS; k++) *tensor_of(q, k) = p->list[i].device[k];
        if (q->linear) q->linear->pieces = 0;
    }
}
