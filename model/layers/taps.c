/*
 * taps.c - copies of activations under dotted names.
 */
#include "model/layers/taps.h"

#include "model/core/quant.h"
#include "model/layers/place.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t pc_tap_push(pc_ctx *ctx, const char *fmt, ...)
{
    pc_taps *t = ctx->taps;
    if (!t) return 0;
    const size_t length = strlen(t->prefix);
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(t->prefix + length, sizeof t->prefix - length, fmt, args);
    va_end(args);
    PC_ASSERT(n >= 0 && length + (size_t)n + 1 < sizeof t->prefix, "prefix '%s' is too long",
              t->prefix);
    strcat(t->prefix, ".");
    return length;
}

void pc_tap_pop(pc_ctx *ctx, size_t length)
{
    if (ctx->taps) ctx->taps->prefix[length] = '\0';
}

static bool grow(pc_taps *t)
{
    if (t->count < t->capacity) return true;
    const int capacity = t->capacity ? 2 * t->capacity : 64;
    pc_tap *grown = realloc(t->list, (size_t)capacity * sizeof *grown);
    if (!grown) return false;
    t->list = grown;
    t->capacity = capacity;
    return true;
}

void pc_tap_add(pc_ctx *ctx, pc_tensor x, const char *fmt, ...)
{
    pc_taps *t = ctx->taps;
    if (!t || ctx->act->dry || t->status) return;
    const size_t unit = pc_dtype_size(x.dtype), row = (size_t)pc_row_len(x) * unit;
    pc_tensor copy = x;
    copy.stride = pc_row_len(x);
    const int64_t count = pc_numel(x);
    copy.data = grow(t) ? malloc((size_t)count * (unit < 4 ? 4 : unit) + 1) : NULL;
    if (!copy.data) {
        t->status = pc_fail(PC_ERR_MEMORY, "activation %d, '%s...'", t->count + 1, t->prefix);
        return;
    }
    const pc_memory *memory = ctx->act->memory;
    for (int64_t n = 0; n < x.dim[0]; n++) {
        char *to = (char *)copy.data + (size_t)n * row;
        const char *from = (const char *)x.data + n * x.stride * (int64_t)unit;
        if (memory)
            memory->copy(to, from, row);
        else
            memcpy(to, from, row);
    }
    pc_wait(ctx);
    if (x.dtype == PC_BF16) { // widened where it lies, from the end
        copy.dtype = PC_F32;
        unsigned char *bytes = copy.data;
        for (int64_t i = count - 1; i >= 0; i--) {
            uint16_t half;
            memcpy(&half, bytes + 2 * i, sizeof half);
            const float wide = pc_bf16_to_f32(half);
            memcpy(bytes + 4 * i, &wide, sizeof wide);
        }
    }

    pc_tap *tap = &t->list[t->count++];
    tap->value = copy;
    va_list args;
    va_start(args, fmt);
    const size_t length = (size_t)snprintf(tap->name, sizeof tap->name, "%s", t->prefix);
    vsnprintf(tap->name + length, sizeof tap->name - length, fmt, args);
    va_end(args);
}

const pc_tensor *pc_tap_find(const pc_taps *t, const char *name)
{
    for (int i = t->count - 1; i >= 0; i--) // the newest of a name
        if (!strcmp(t->list[i].name, name)) return &t->list[i].value;
    return NULL;
}

void pc_taps_close(pc_taps *t)
{
    for (int i = 0; i < t->count; i++) free(t->list[i].value.data);
    free(t->list);
    *t = (pc_taps){0};
}
