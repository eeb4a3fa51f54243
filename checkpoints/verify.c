/*
 * verify.c - see verify.h.
 */
#include "checkpoints/verify.h"

#include "checkpoints/verify_logits.h"
#include "model/core/log.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((int64_t)1 << 20) // numbers compared at once

const char *const pc_verify_modes[] = {"auto", "logits", "tensors", "none", NULL};

// Half a unit in the last place of the written type; what a whole model makes of such errors stays below 16 of
// them (seen on small models of every family: 3.1 for bf16, 2.9 for f16).
pc_verify_limits pc_verify_type(pc_dtype t)
{
    switch (t) {
    case PC_BF16: return (pc_verify_limits){0x1p-8, 0x1p-133, 0.0, 0x1p-4};
    case PC_F16: return (pc_verify_limits){0x1p-11, 0x1p-25, 0.0, 0x1p-7};
    default: return (pc_verify_limits){0.0, 0.0, 0.0, 1e-6};
    }
}

/* ---- tensors ---- */

typedef struct sums {
    double difference, size; // squares
    bool exact;
} sums;

static pc_status compare_piece(sums *s, const float *a, const float *b, int64_t n, int64_t at,
                               const pc_verify_limits *l)
{
    if (!memcmp(a, b, (size_t)n * sizeof *a)) {
        if (l->tensor > 0.0)
            for (int64_t i = 0; i < n; i++) s->size += (double)a[i] * (double)a[i];
        return PC_OK;
    }
    s->exact = false;
    for (int64_t i = 0; i < n; i++) {
        const double x = (double)a[i], y = (double)b[i], d = fabs(x - y);
        s->size += x * x;
        if (x == y) continue;
        s->difference += d * d;
        if (l->tensor > 0.0 || d <= l->number * fabs(x) + l->least || (isnan(x) && isnan(y)))
            continue;
        return pc_fail(PC_ERR_FORMAT, "number %lld is %.9g, it was %.9g", (long long)(at + i), y,
                       x);
    }
    return PC_OK;
}

static pc_status compare_param(pc_verify_report *r, pc_supply *from, pc_supply *to,
                               const pc_param *p, float *buffer, const pc_verify_limits *l)
{
    sums s = {.exact = true};
    int64_t n = 1;
    for (int i = 0; i < p->rank; i++) n *= p->dim[i];
    pc_status st = PC_OK;
    for (int64_t at = 0; at < n && !st; at += PIECE) {
        const int64_t count = n - at < PIECE ? n - at : PIECE;
        if ((st = pc_supply_read(from, buffer, p->name, at, count)) ||
            (st = pc_supply_read(to, buffer + PIECE, p->name, at, count)))
            break;
        st = compare_piece(&s, buffer, buffer + PIECE, count, at, l);
    }
    const double relative = s.difference > 0.0 ? sqrt(s.difference / fmax(s.size, 1e-300)) : 0.0;
    if (!st && l->tensor > 0.0 && !(relative <= l->tensor))
        st = pc_fail(PC_ERR_FORMAT, "differs by %.3g (relative), its type explains %.3g", relative,
                     l->tensor);
    r->parameters++;
    r->exact += s.exact;
    if (relative > r->worst_tensor) {
        r->worst_tensor = relative;
        snprintf(r->worst_name, sizeof r->worst_name, "%s", p->name);
    }
    return pc_context(st, "'%s'", p->name);
}

// What no forward pass reads may be left out (a last norm before features of an earlier layer).
static bool may_lack(const pc_supply *o, const char *name)
{
    const pc_model_config *c = &o->shape.config;
    return c->kind == PC_MODEL_VLM && !pc_vlm_reads(&c->vlm, name);
}

static pc_status same_list(const pc_supply *a, const pc_supply *b)
{
    pc_params *p = (pc_params *)(uintptr_t)&a->shape.params;
    pc_params *q = (pc_params *)(uintptr_t)&b->shape.params;
    for (int i = 0; i < p->count; i++) {
        const pc_param *x = &p->list[i], *y = pc_params_find(q, x->name);
        if (!y && may_lack(a, x->name)) continue;
        if (!y || x->rank != y->rank ||
            (x->rank && memcmp(x->dim, y->dim, (size_t)x->rank * sizeof *x->dim) != 0))
            return pc_fail(PC_ERR_FORMAT, "parameter '%s' is %s in it", x->name,
                           y ? "of another shape" : "missing");
    }
    for (int i = 0; i < q->count; i++)
        if (!pc_params_find(p, q->list[i].name))
            return pc_fail(PC_ERR_FORMAT, "the source has no parameter '%s'", q->list[i].name);
    return PC_OK;
}

static pc_status compare_tensors(pc_verify_report *r, pc_supply *from, pc_supply *to,
                                 const pc_verify_limits *l)
{
    pc_status st = same_list(from, to);
    float *buffer = malloc((size_t)(2 * PIECE) * sizeof *buffer);
    if (!st && !buffer) st = pc_fail(PC_ERR_MEMORY, "buffers");
    for (int i = 0; i < to->shape.params.count && !st; i++)
        if (!pc_gguf_model_implies(&to->gguf, to->shape.params.list[i].name))
            st = compare_param(r, from, to, &to->shape.params.list[i], buffer, l);
    free(buffer);
    return st;
}

/* ---- logits ---- */

static pc_status answers_of(pc_answers *out, pc_supply *o, const pc_model_config *as, uint64_t seed)
{
    pc_model m = {0};
    pc_status st = pc_model_open(&m, &o->shape.config, PC_F32, true);
    if (!st) st = pc_supply_bind(o, &m.params);
    if (!st) st = pc_answers_open(out, &m, as, seed);
    pc_model_close(&m);
    return st;
}

static pc_status compare_logits(pc_verify_report *r, pc_supply *from, pc_supply *to,
                                const pc_verify_limits *l, uint64_t seed)
{
    pc_answers a = {0}, b = {0};
    pc_status st = answers_of(&a, from, NULL, seed);
    if (!st) st = answers_of(&b, to, &from->shape.config, seed);
    if (!st && a.count != b.count)
        st = pc_fail(PC_ERR_FORMAT, "%lld logits, the source gives %lld", (long long)b.count,
                     (long long)a.count);
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < a.count && !st; i++) {
        const double x = (double)a.numbers[i], d = x - (double)b.numbers[i];
        difference += d * d;
        size += x * x;
    }
    r->logits = sqrt(difference / fmax(size, 1e-300));
    r->ran_logits = true;
    r->random_images = a.images;
    if (!st && !(r->logits <= l->logits))
        st = pc_fail(PC_ERR_FORMAT,
                     "logits differ by %.3g (relative), the written type explains %.3g%s%s",
                     r->logits, l->logits, r->worst_name[0] ? "; furthest apart is " : "",
                     r->worst_name);
    pc_answers_close(&a);
    pc_answers_close(&b);
    return st;
}

// Bytes that the system could give without swapping; 0: not known.
static double free_memory(void)
{
    char line[128];
    unsigned long long kb = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kb) == 1) break;
    if (f) fclose(f);
    return (double)kb * 1024.0;
}

static bool logits_wanted(const pc_supply *o, pc_verify_mode mode)
{
    if (mode != PC_VERIFY_AUTO) return mode == PC_VERIFY_LOGITS;
    const double need = (double)pc_params_bytes(&o->shape.params, PC_F32, false);
    const double have = free_memory();
    if (have <= 0.0 || 2.0 * need <= have) return true;
    pc_log("verified by tensors alone: logits would need %.1f GB of weights, %.1f GB are free",
           need / 1e9, have / 1e9);
    return false;
}

pc_status pc_verify_against(pc_verify_report *out, pc_supply *from, pc_supply *to,
                            const pc_verify_limits *limits, pc_verify_mode mode, uint64_t seed)
{
    *out = (pc_verify_report){0};
    pc_status st = compare_tensors(out, from, to, limits);
    if (!st && logits_wanted(from, mode)) st = compare_logits(out, from, to, limits, seed);
    return st;
}

pc_status pc_verify(pc_verify_report *out, pc_supply *from, const char *written,
                    const pc_verify_limits *limits, pc_verify_mode mode, uint64_t seed)
{
    pc_supply to;
    *out = (pc_verify_report){0};
    if (mode == PC_VERIFY_NONE) return PC_OK;
    pc_status st = pc_supply_open(&to, written);
    if (!st) st = pc_verify_against(out, from, &to, limits, mode, seed);
    pc_supply_close(&to);
    return pc_context(st, "verifying '%s'", written);
}

const char *pc_verify_text(char *buf, size_t size, const pc_verify_report *r)
{
    if (!r->parameters) {
        snprintf(buf, size, "not verified");
        return buf;
    }
    size_t n = (size_t)snprintf(buf, size, "verified: %lld of %lld parameters equal bit for bit",
                                (long long)r->exact, (long long)r->parameters);
    if (r->exact < r->parameters && n < size)
        n += (size_t)snprintf(buf + n, size - n, ", the others within %.2g (%s)", r->worst_tensor,
                              r->worst_name);
    if (r->ran_logits && n < size)
        snprintf(buf + n, size - n, "; logits of random ids%s differ by %.2g (relative)",
                 r->random_images ? " and pixels" : "", r->logits);
    return buf;
}
