/*
 * numbers.c - see numbers.h.
 */
#include "checkpoints/numbers.h"

#include "model/core/quant.h"

#include <string.h>

static const struct {
    const char *text;
    pc_dtype type;
} TYPES[] = {{"F32", PC_F32}, {"F64", PC_F64}, {"BF16", PC_BF16}, {"F16", PC_F16},
             {"I32", PC_I32}, {"I64", PC_I64}, {"U8", PC_U8}};

bool pc_dtype_from_text(pc_dtype *out, const char *text)
{
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (!strcmp(TYPES[i].text, text)) {
            *out = TYPES[i].type;
            return true;
        }
    return false;
}

const char *pc_dtype_text(pc_dtype t)
{
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (TYPES[i].type == t) return TYPES[i].text;
    PC_ASSERT(false, "dtype %d", (int)t);
    return NULL;
}

void pc_widen(float *out, const void *in, pc_dtype t, int64_t n)
{
    const unsigned char *p = in;
    if (n <= 0) return;
    switch (t) {
    case PC_F32: memcpy(out, p, (size_t)n * sizeof *out); return;
    case PC_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, sizeof h);
            out[i] = pc_bf16_to_f32(h);
        }
        return;
    case PC_F16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, sizeof h);
            out[i] = pc_f16_to_f32(h);
        }
        return;
    case PC_F64:
        for (int64_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, p + 8 * i, sizeof d);
            out[i] = (float)d;
        }
        return;
    default: PC_ASSERT(false, "dtype %s is no floating type", pc_dtype_name(t));
    }
}

void pc_narrow(void *out, pc_dtype t, const float *in, int64_t n)
{
    unsigned char *p = out;
    if (n <= 0) return;
    switch (t) {
    case PC_F32: memcpy(p, in, (size_t)n * sizeof *in); return;
    case PC_BF16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t h = pc_f32_to_bf16(in[i]);
            memcpy(p + 2 * i, &h, sizeof h);
        }
        return;
    case PC_F16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t h = pc_f32_to_f16(in[i]);
            memcpy(p + 2 * i, &h, sizeof h);
        }
        return;
    default: PC_ASSERT(false, "dtype %s is not narrowed to", pc_dtype_name(t));
    }
}
