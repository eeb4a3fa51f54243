/*
 * attention_mask.cu - from a mask to the tiles that the kernels go by, on the device, kept from call to call.
 *
 * The layers of a tower all pass the same mask, so what was made of it last is found again by comparing contents: the
 * arrays' addresses say nothing, as their arena is used again by the next batch. Device copies are written in the
 * stream's order: kernels that were told to read the old ones have done so by then.
 */
#include "model/ops/cuda/attention.cuh"

#include <stdlib.h>
#include <string.h>

enum { LOOSE = 8, PINNED = 24, KEPT = LOOSE + PINNED }; // masks: towers, decoder, rows read, and those of a batch in between

typedef struct kept_mask {
    int64_t S, N;
    bool prefixes;
    int32_t *copy; // q_off, k_off, lo, hi, plo, phi as they were
    size_t copy_room;
    void *device;
    size_t device_room;
    sights lists;
    uint64_t used;
    bool pinned; // recordings read it: it stays
} kept_mask;

static kept_mask kept[KEPT];
static uint64_t calls;

typedef struct parts {
    const int32_t *from[6];
    int64_t count[6];
} parts;

static parts parts_of(const pc_mask *m, int64_t N)
{
    const bool prefixes = pc_present(m->plo);
    const parts p = {{pc_i32(m->q_off), pc_i32(m->k_off), pc_i32(m->lo), pc_i32(m->hi), prefixes ? pc_i32(m->plo) : NULL,
                      prefixes ? pc_i32(m->phi) : NULL},
                     {m->S + 1, m->S + 1, N, N, prefixes ? N : 0, prefixes ? N : 0}};
    return p;
}

static bool holds(const kept_mask *k, const pc_mask *m, int64_t N)
{
    if (!k->copy || k->S != m->S || k->N != N || k->prefixes != pc_present(m->plo)) return false;
    const parts p = parts_of(m, N);
    const int32_t *at = k->copy;
    for (int i = 0; i < 6; at += p.count[i++])
        if (p.count[i] && memcmp(at, p.from[i], (size_t)p.count[i] * sizeof *at) != 0) return false;
    return true;
}

static void *room(void *p, size_t bytes)
{
    void *q = realloc(p, bytes);
    PC_ASSERT(q, "%zu bytes for a mask", bytes);
    return q;
}

static void remember(kept_mask *k, const pc_mask *m, int64_t N)
{
    const parts p = parts_of(m, N);
    int64_t count = 0;
    for (int i = 0; i < 6; i++) count += p.count[i];
    const size_t bytes = (size_t)count * sizeof *k->copy;
    if (bytes > k->copy_room) {
        k->copy = (int32_t *)room(k->copy, bytes);
        k->copy_room = bytes;
    }
    int32_t *at = k->copy;
    for (int i = 0; i < 6; at += p.count[i++])
        if (p.count[i]) memcpy(at, p.from[i], (size_t)p.count[i] * sizeof *at);
    k->S = m->S;
    k->N = N;
    k->prefixes = pc_present(m->plo);
}

static void widen(int32_t *first, int32_t *last, int32_t lo, int32_t hi)
{
    if (lo >= hi) return;
    const bool none = *first >= *last;
    if (none || lo < *first) *first = lo;
    if (none || hi > *last) *last = hi;
}

// Two ranges that overlap would let a key pass twice, and two that lie close cost a tile more than one.
static void join(int32_t first[2], int32_t last[2])
{
    if (first[0] >= last[0] || first[1] >= last[1] || first[1] > last[0] + GRANULE / 2 || first[0] > last[1] + GRANULE / 2) return;
    widen(&first[1], &last[1], first[0], last[0]);
    first[0] = last[0] = 0;
}

static int4 row_of(const parts *p, int64_t n)
{
    int4 r = {p->from[2][n], p->from[3][n], 0, 0};
    if (r.x >= r.y) r.x = r.y = 0;
    if (!p->from[4] || p->from[4][n] >= p->from[5][n]) return r;
    r.z = p->from[4][n];
    r.w = p->from[5][n];
    if (r.x < r.y && r.w >= r.x) {
        r.x = r.z;
        r.y = r.y > r.w ? r.y : r.w;
        r.z = r.w = 0;
    }
    return r;
}

static granule granule_of(const int4 *rows, int32_t begin, int32_t end, int32_t origin)
{
    granule g = {begin, end, origin, {0, 0}, {0, 0}, {0, 0}, {INT32_MAX, INT32_MAX}};
    for (int32_t n = begin; n < end; n++) {
        const int4 r = rows[n];
        widen(&g.first[1], &g.last[1], r.x, r.y);
        widen(&g.first[0], &g.last[0], r.z, r.w);
        g.all_first[1] = r.x > g.all_first[1] ? r.x : g.all_first[1];
        g.all_last[1] = r.y < g.all_last[1] ? r.y : g.all_last[1];
        g.all_first[0] = r.z > g.all_first[0] ? r.z : g.all_first[0];
        g.all_last[0] = r.w < g.all_last[0] ? r.w : g.all_last[0];
    }
    join(g.first, g.last);
    return g;
}

static int64_t work(const task *t)
{
    return (int64_t)(t->last[0] - t->first[0]) + (t->last[1] - t->first[1]);
}

// Tasks of `span` granules among `count` of a sequence, the longest first: causal rows are turned round.
static int query_tasks(task *out, const granule *all, int first, int count, int span)
{
    int n = 0;
    for (int i = 0; i < count; i += span) {
        task t = {};
        t.granule = first + i;
        t.count = count - i < span ? count - i : span;
        const granule *g = all + t.granule;
        t.begin = g[0].begin;
        t.end = g[t.count - 1].end;
        for (int j = 0; j < t.count; j++)
            for (int p = 0; p < 2; p++) widen(&t.first[p], &t.last[p], g[j].first[p], g[j].last[p]);
        join(t.first, t.last);
        out[n++] = t;
    }
    if (n > 1 && work(&out[n - 1]) > work(&out[0]))
        for (int i = 0; i < n / 2; i++) {
            const task t = out[i];
            out[i] = out[n - 1 - i];
            out[n - 1 - i] = t;
        }
    return n;
}

static int key_tasks(task *out, const granule *all, int first, int count, int32_t begin, int32_t end, int span)
{
    int n = 0;
    for (int32_t k = begin; k < end; k += span * GRANULE) {
        task t = {};
        t.begin = k;
        t.end = k + span * GRANULE < end ? k + span * GRANULE : end;
        for (int i = first; i < first + count; i++) {
            const granule *g = all + i;
            const bool meet = (g->first[0] < t.end && t.begin < g->last[0]) || (g->first[1] < t.end && t.begin < g->last[1]);
            if (!meet) continue;
            widen(&t.first[0], &t.last[0], i, i + 1);
            t.count++;
        }
        out[n++] = t;
    }
    return n;
}

// What is the same in every row, if anything.
static int shape_of(const pc_mask *m, const parts *p)
{
    const int32_t *qo = p->from[0], *ko = p->from[1], *lo = p->from[2], *hi = p->from[3];
    bool full = true, causal = true;
    if (p->from[4]) return SHAPE_OTHER;
    for (int64_t s = 0; s < m->S && (full || causal); s++) {
        if (qo[s] != ko[s] || qo[s + 1] != ko[s + 1]) return SHAPE_OTHER;
        for (int32_t n = qo[s]; n < qo[s + 1] && (full || causal); n++) {
            full = full && lo[n] == qo[s] && hi[n] == qo[s + 1];
            causal = causal && lo[n] == qo[s] && hi[n] == n + 1;
        }
    }
    return full ? SHAPE_FULL : causal ? SHAPE_CAUSAL : SHAPE_OTHER;
}

// Of all sequences together the longest first, too; of equals the first.
static int longer_query(const void *a, const void *b)
{
    const task *x = (const task *)a, *y = (const task *)b;
    const int64_t more = work(y) - work(x);
    return more > 0 ? 1 : more < 0 ? -1 : x->granule - y->granule;
}

static int longer_key(const void *a, const void *b)
{
    const task *x = (const task *)a, *y = (const task *)b;
    return x->count != y->count ? y->count - x->count : x->begin - y->begin;
}

static size_t whole(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static void list(kept_mask *k, const pc_mask *m, int64_t N)
{
    const parts p = parts_of(m, N);
    const int32_t *qo = p.from[0], *ko = p.from[1];
    int64_t granules = 0, queries[SPANS] = {}, keys[SPANS] = {};
    for (int64_t s = 0; s < m->S; s++) {
        const int64_t tiles = (qo[s + 1] - qo[s] + GRANULE - 1) / GRANULE, over = ko[s + 1] - ko[s];
        granules += tiles;
        for (int i = 0; i < SPANS; i++) {
            queries[i] += (tiles + i) / (i + 1);
            if (over > 0) keys[i] += (over + (i + 1) * GRANULE - 1) / ((i + 1) * GRANULE);
        }
    }
    size_t at = 0, at_rows = at, at_offsets, at_granules, at_queries[SPANS], at_keys[SPANS];
    at += whole((size_t)(N + SPANS * GRANULE) * sizeof(int4)); // read by blocks
    at_offsets = at;
    at += whole((size_t)(m->S + 1) * sizeof(int32_t));
    at_granules = at;
    at += whole((size_t)(granules + 1) * sizeof(granule));
    for (int i = 0; i < SPANS; i++) {
        at_queries[i] = at;
        at += whole((size_t)(queries[i] + 1) * sizeof(task));
        at_keys[i] = at;
        at += whole((size_t)(keys[i] + 1) * sizeof(task));
    }
    if (at > k->device_room) {
        if (k->device) CHECK_CUDA(cudaStreamSynchronize(pc_cuda_stream));
        CHECK_CUDA(cudaFree(k->device));
        k->device_room = at + at / 4;
        CHECK_CUDA(cudaMalloc(&k->device, k->device_room));
    }
    unsigned char *host = (unsigned char *)pc_cuda_staged(at), *device = (unsigned char *)k->device;
    int4 *rows = (int4 *)(host + at_rows);
    granule *g = (granule *)(host + at_granules);
    for (int64_t n = 0; n < N; n++) rows[n] = row_of(&p, n);
    k->lists = {};
    k->lists.shape = shape_of(m, &p);
    k->lists.sequences = (int)m->S;
    memcpy(host + at_offsets, qo, (size_t)(m->S + 1) * sizeof *qo);
    int made = 0;
    bool uniform = true;
    for (int64_t s = 0; s < m->S; s++) {
        const int first = made;
        if (qo[s + 1] - qo[s] > k->lists.longest) k->lists.longest = qo[s + 1] - qo[s];
        uniform = uniform && qo[s] == s * qo[1];
        for (int32_t n = qo[s]; n < qo[s + 1]; n += GRANULE)
            g[made++] = granule_of(rows, n, n + GRANULE < qo[s + 1] ? n + GRANULE : qo[s + 1], ko[s]);
        for (int i = 0; i < SPANS; i++) {
            sights *l = &k->lists;
            l->query_count[i] += query_tasks((task *)(host + at_queries[i]) + l->query_count[i], g, first, made - first, i + 1);
            l->key_count[i] += key_tasks((task *)(host + at_keys[i]) + l->key_count[i], g, first, made - first, ko[s], ko[s + 1], i + 1);
        }
    }
    for (int i = 0; i < SPANS; i++) {
        qsort(host + at_queries[i], (size_t)k->lists.query_count[i], sizeof(task), longer_query);
        qsort(host + at_keys[i], (size_t)k->lists.key_count[i], sizeof(task), longer_key);
    }
    k->lists.uniform = m->S > 0 && uniform && qo[m->S] == m->S * qo[1] ? qo[1] : 0;
    CHECK_CUDA(cudaMemcpyAsync(device, host, at, cudaMemcpyHostToDevice, pc_cuda_stream));
    int64_t seen = 0;
    for (int i = 0; i < made; i++) seen += g[i].last[0] - g[i].first[0] + g[i].last[1] - g[i].first[1];
    k->lists.granule_count = made;
    k->lists.seen = made > 0 ? (int)(seen / made) : 0;
    k->lists.rows = (const int4 *)(device + at_rows);
    k->lists.offsets = (const int32_t *)(device + at_offsets);
    k->lists.granules = (const granule *)(device + at_granules);
    for (int i = 0; i < SPANS; i++) {
        k->lists.queries[i] = (const task *)(device + at_queries[i]);
        k->lists.keys[i] = (const task *)(device + at_keys[i]);
    }
}

bool sights_stay(const pc_mask *mask, int64_t N)
{
    static int pinned;
    for (int i = 0; i < KEPT; i++) {
        if (!holds(&kept[i], mask, N)) continue;
        if (!kept[i].pinned && pinned < PINNED) {
            kept[i].pinned = true;
            pinned++;
        }
        return kept[i].pinned;
    }
    return false;
}

sights sights_of(const pc_mask *mask, int64_t N)
{
    kept_mask *oldest = NULL, *empty = NULL;
    int loose = 0;
    calls++;
    for (int i = 0; i < KEPT; i++) {
        kept_mask *k = &kept[i];
        if (holds(k, mask, N)) {
            k->used = calls;
            return k->lists;
        }
        if (!k->copy) empty = empty ? empty : k;
        if (!k->copy || k->pinned) continue;
        loose++;
        if (!oldest || k->used < oldest->used) oldest = k;
    }
    if (loose < LOOSE && empty) oldest = empty;
    remember(oldest, mask, N);
    list(oldest, mask, N);
    oldest->used = calls;
    return oldest->lists;
}
