/*
 * native_import.c - see native_import.h.
 */
#include "checkpoints/native_import.h"

#include "checkpoints/numbers.h"
#include <stdlib.h>
#include <unistd.h>

typedef struct source {
    pc_supply *o;
    const char *name;
    pc_dtype type;
    float *buffer;
    int64_t room;
} source;

static pc_status fill(void *arg, void *buffer, int64_t begin, int64_t count)
{
    source *s = arg;
    if (s->type == PC_F32) return pc_supply_read(s->o, buffer, s->name, begin, count);
    if (count > s->room) {
        float *more = realloc(s->buffer, (size_t)count * sizeof *more);
        if (!more) return pc_fail(PC_ERR_MEMORY, "a piece of %lld numbers", (long long)count);
        s->buffer = more;
        s->room = count;
    }
    const pc_status st = pc_supply_read(s->o, s->buffer, s->name, begin, count);
    if (!st) pc_narrow(buffer, s->type, s->buffer, count);
    return st;
}

pc_status pc_native_import(const char *path, pc_supply *o, pc_verify_mode verify,
                           pc_verify_report *report)
{
    pc_native_text text;
    pc_native_out *out;
    source s = {.o = o};
    *report = (pc_verify_report){0};
    pc_status st = pc_supply_texts(&text, o);
    if (st) return st;
    st = pc_native_begin(&out, path, &text);
    pc_native_text_close(&text);
    if (st) return st;
    for (int i = 0; i < o->shape.params.count && !st; i++) {
        const pc_param *p = &o->shape.params.list[i];
        s.name = p->name;
        s.type = pc_supply_dtype(o, p->name);
        st = pc_native_put(out, p->name, s.type, p->rank, p->dim, false, fill, &s);
    }
    free(s.buffer);
    st = pc_native_end(out, st);
    if (st) return st;
    const pc_verify_limits exact = pc_verify_type(PC_F32);
    st = pc_verify(report, o, path, &exact, verify, 1);
    if (st) unlink(path);
    return st;
}
