/*
 * pickle.c - see pickle.h.
 *
 * Objects are kept by number and never moved; what they hold are other numbers, spans of the file, or integers. Their
 * count is limited, so a hostile file costs a fixed amount of memory at most.
 */
#include "checkpoints/pickle.h"

#include "checkpoints/zip.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECTS_MAX (1 << 21) // a state dict of 1000 tensors has some 30 000
#define PICKLE_MAX  ((size_t)256 << 20)
#define RANK_MAX    8

#define CONVERT                                                                                    \
    "convert it where it was made: safetensors.torch.save_file(model.state_dict(), "               \
    "\"model.safetensors\")"

typedef enum kind { NOTHING, NUMBER, TEXT, TUPLE, DICT, OTHER, CLASS, STORAGE, TENSOR } kind;
typedef enum class { ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, STORAGE_CLASS } class;

typedef struct object {
    kind kind;
    union {
        int64_t number;
        struct {
            const char *at;
            uint32_t size;
        } text;
        struct {
            uint32_t first, count;
        } items; // TUPLE: in `items`
        struct {
            class class;
            const char *dtype;
        } named;
        struct {
            const unsigned char *data;
            size_t size;
            const char *dtype;
        } storage;
        struct {
            uint32_t storage, sizes, strides; // tuples
            int64_t offset;
        } tensor;
    } as;
} object;

typedef struct pair {
    uint32_t dict, key, value;
} pair;

typedef struct list {
    uint32_t *at;
    uint32_t count, capacity;
} list;

typedef struct machine {
    const unsigned char *p, *end, *begin;
    const pc_zip *zip;
    const char *folder; // of the archive: "NAME/"
    size_t folder_size;
    object *objects;
    uint32_t count, capacity;
    list stack, marks, items, memo; // memo: object + 1 by number, 0 for none
    pair *pairs;
    uint32_t pair_count, pair_capacity;
} machine;

/* ---- memory ---- */

static pc_status too_large(void)
{
    return pc_fail(PC_ERR_FORMAT, "more objects than a state dict has; " CONVERT);
}

static pc_status push_to(list *l, uint32_t value)
{
    if (l->count == l->capacity) {
        const uint32_t capacity = l->capacity ? 2 * l->capacity : 256;
        if (capacity > 2 * OBJECTS_MAX) return too_large();
        uint32_t *more = realloc(l->at, capacity * sizeof *more);
        if (!more) return pc_fail(PC_ERR_MEMORY, "a pickle's objects");
        l->at = more;
        l->capacity = capacity;
    }
    l->at[l->count++] = value;
    return PC_OK;
}

static pc_status make(machine *m, uint32_t *out, object o)
{
    if (m->count == m->capacity) {
        const uint32_t capacity = m->capacity ? 2 * m->capacity : 256;
        if (capacity > OBJECTS_MAX) return too_large();
        object *more = realloc(m->objects, capacity * sizeof *more);
        if (!more) return pc_fail(PC_ERR_MEMORY, "a pickle's objects");
        m->objects = more;
        m->capacity = capacity;
    }
    m->objects[m->count] = o;
    *out = m->count++;
    return PC_OK;
}

static pc_status push(machine *m, object o)
{
    uint32_t n = 0;
    const pc_status st = make(m, &n, o);
    return st ? st : push_to(&m->stack, n);
}

static pc_status underflow(void)
{
    return pc_fail(PC_ERR_FORMAT, "the pickle takes more from its stack than it put there");
}

// Nothing below the last mark may be taken.
static pc_status pop(machine *m, uint32_t *out)
{
    const uint32_t floor = m->marks.count ? m->marks.at[m->marks.count - 1] : 0;
    if (m->stack.count <= floor) return underflow();
    *out = m->stack.at[--m->stack.count];
    return PC_OK;
}

static pc_status pop_mark(machine *m, uint32_t *first)
{
    if (!m->marks.count) return underflow();
    *first = m->marks.at[--m->marks.count];
    return PC_OK;
}

/* ---- reading ---- */

static pc_status take(machine *m, const unsigned char **out, uint64_t n)
{
    if (n > (uint64_t)(m->end - m->p))
        return pc_fail(PC_ERR_FORMAT, "the pickle ends within an operation");
    *out = m->p;
    m->p += n;
    return PC_OK;
}

static pc_status number(machine *m, uint64_t *out, int bytes)
{
    const unsigned char *p = NULL;
    const pc_status st = take(m, &p, (uint64_t)bytes);
    *out = 0;
    for (int i = bytes; !st && i-- > 0;) *out = *out << 8 | p[i];
    return st;
}

static pc_status line(machine *m, const char **text, size_t *size)
{
    const unsigned char *end = memchr(m->p, '\n', (size_t)(m->end - m->p));
    if (!end) return pc_fail(PC_ERR_FORMAT, "the pickle ends within a name");
    *text = (const char *)m->p;
    *size = (size_t)(end - m->p);
    m->p = end + 1;
    return PC_OK;
}

static pc_status push_text(machine *m, int bytes)
{
    uint64_t n = 0;
    const unsigned char *p = NULL;
    pc_status st = number(m, &n, bytes);
    if (!st && n > UINT32_MAX)
        st = pc_fail(PC_ERR_FORMAT, "a text of %llu bytes", (unsigned long long)n);
    if (!st) st = take(m, &p, n);
    if (st) return st;
    return push(m, (object){.kind = TEXT, .as.text = {(const char *)p, (uint32_t)n}});
}

static pc_status push_number(machine *m, int bytes, bool with_sign)
{
    uint64_t n = 0;
    pc_status st = number(m, &n, bytes);
    if (st) return st;
    if (with_sign && bytes < 8 && bytes > 0 && (n >> (8 * bytes - 1) & 1u))
        n |= UINT64_MAX << (8 * bytes);
    return push(m, (object){.kind = NUMBER, .as.number = (int64_t)n});
}

/* ---- names ---- */

static bool same(const char *text, size_t size, const char *word)
{
    return size == strlen(word) && !memcmp(text, word, size);
}

static pc_status push_class(machine *m, const char *module, size_t a, const char *name, size_t b)
{
    static const struct {
        const char *name, *dtype;
    } storages[] = {
        {"FloatStorage", "F32"},  {"BFloat16Storage", "BF16"}, {"HalfStorage", "F16"},
        {"DoubleStorage", "F64"}, {"LongStorage", "I64"},      {"IntStorage", "I32"},
        {"ShortStorage", "I16"},  {"CharStorage", "I8"},       {"ByteStorage", "U8"},
        {"BoolStorage", "BOOL"},
    };
    object o = {.kind = CLASS};
    if (same(module, a, "collections") && same(name, b, "OrderedDict")) {
        o.as.named.class = ORDERED_DICT;
        return push(m, o);
    }
    if (same(module, a, "torch._utils") && same(name, b, "_rebuild_tensor_v2")) {
        o.as.named.class = REBUILD_TENSOR;
        return push(m, o);
    }
    if (same(module, a, "torch._utils") && same(name, b, "_rebuild_parameter")) {
        o.as.named.class = REBUILD_PARAMETER;
        return push(m, o);
    }
    for (size_t i = 0; i < sizeof storages / sizeof *storages; i++)
        if (same(module, a, "torch") && same(name, b, storages[i].name)) {
            o.as.named.class = STORAGE_CLASS;
            o.as.named.dtype = storages[i].dtype;
            return push(m, o);
        }
    return pc_fail(PC_ERR_FORMAT,
                   "it asks for '%.*s.%.*s', which plain weights never need, and nothing is "
                   "executed here; " CONVERT,
                   (int)(a < 80 ? a : 80), module, (int)(b < 80 ? b : 80), name);
}

static pc_status global(machine *m)
{
    const char *module = NULL, *name = NULL;
    size_t a = 0, b = 0;
    pc_status st = line(m, &module, &a);
    if (!st) st = line(m, &name, &b);
    return st ? st : push_class(m, module, a, name, b);
}

static pc_status stack_global(machine *m)
{
    uint32_t name = 0, module = 0;
    pc_status st = pop(m, &name);
    if (!st) st = pop(m, &module);
    if (st) return st;
    const object *x = &m->objects[module], *y = &m->objects[name];
    if (x->kind != TEXT || y->kind != TEXT) return pc_fail(PC_ERR_FORMAT, "a class without a name");
    return push_class(m, x->as.text.at, x->as.text.size, y->as.text.at, y->as.text.size);
}

/* ---- objects ---- */

static pc_status push_tuple(machine *m, uint32_t from)
{
    const uint32_t first = m->items.count, n = m->stack.count - from;
    for (uint32_t i = 0; i < n; i++) {
        const pc_status st = push_to(&m->items, m->stack.at[from + i]);
        if (st) return st;
    }
    m->stack.count = from;
    return push(m, (object){.kind = TUPLE, .as.items = {first, n}});
}

static pc_status small_tuple(machine *m, uint32_t n)
{
    const uint32_t floor = m->marks.count ? m->marks.at[m->marks.count - 1] : 0;
    if (m->stack.count - floor < n) return underflow();
    return push_tuple(m, m->stack.count - n);
}

// Item i of a tuple, if it is one and has it.
static const object *item(const machine *m, uint32_t tuple, uint32_t i)
{
    const object *t = &m->objects[tuple];
    if (t->kind != TUPLE || i >= t->as.items.count) return NULL;
    return &m->objects[m->items.at[t->as.items.first + i]];
}

static pc_status add_pair(machine *m, uint32_t dict, uint32_t key, uint32_t value)
{
    if (m->pair_count == m->pair_capacity) {
        const uint32_t capacity = m->pair_capacity ? 2 * m->pair_capacity : 256;
        if (capacity > OBJECTS_MAX) return too_large();
        pair *more = realloc(m->pairs, capacity * sizeof *more);
        if (!more) return pc_fail(PC_ERR_MEMORY, "a pickle's objects");
        m->pairs = more;
        m->pair_capacity = capacity;
    }
    m->pairs[m->pair_count++] = (pair){dict, key, value};
    return PC_OK;
}

// [from, top) of the stack, key by key, into the object below.
static pc_status set_items(machine *m, uint32_t from)
{
    const uint32_t floor = m->marks.count ? m->marks.at[m->marks.count - 1] : 0;
    if (from <= floor || (m->stack.count - from) % 2) return underflow();
    const uint32_t dict = m->stack.at[from - 1];
    pc_status st = PC_OK;
    for (uint32_t i = from; i < m->stack.count && m->objects[dict].kind == DICT && !st; i += 2)
        st = add_pair(m, dict, m->stack.at[i], m->stack.at[i + 1]);
    m->stack.count = from;
    return st;
}

static pc_status set_one(machine *m)
{
    const uint32_t floor = m->marks.count ? m->marks.at[m->marks.count - 1] : 0;
    if (m->stack.count - floor < 3) return underflow();
    return set_items(m, m->stack.count - 2);
}

// ('storage', class, key, device, numbers)
static pc_status persistent(machine *m)
{
    uint32_t id = 0;
    char name[256];
    pc_status st = pop(m, &id);
    if (st) return st;
    const object *word = item(m, id, 0), *type = item(m, id, 1), *key = item(m, id, 2);
    if (!word || !type || !key || word->kind != TEXT ||
        !same(word->as.text.at, word->as.text.size, "storage") || type->kind != CLASS ||
        type->as.named.class != STORAGE_CLASS || key->kind != TEXT)
        return pc_fail(PC_ERR_FORMAT, "a persistent id that is no storage; " CONVERT);
    const int n =
        snprintf(name, sizeof name, "%.*sdata/%.*s", (int)m->folder_size, m->folder,
                 (int)(key->as.text.size < 256 ? key->as.text.size : 256), key->as.text.at);
    if (n < 0 || (size_t)n != m->folder_size + 5 + key->as.text.size || (size_t)n >= sizeof name)
        return pc_fail(PC_ERR_FORMAT, "a storage key of %u bytes", key->as.text.size);
    const pc_zip_member *member = pc_zip_find(m->zip, name, (size_t)n);
    if (!member)
        return pc_fail(PC_ERR_FORMAT, "storage '%.*s' is not in the archive", n < 200 ? n : 200,
                       name);
    return push(m, (object){.kind = STORAGE,
                            .as.storage = {member->data, member->size, type->as.named.dtype}});
}

// (storage, offset, sizes, strides, ...)
static pc_status rebuild_tensor(machine *m, uint32_t args)
{
    const object *storage = item(m, args, 0), *offset = item(m, args, 1), *sizes = item(m, args, 2),
                 *strides = item(m, args, 3);
    if (!storage || !offset || !sizes || !strides || storage->kind != STORAGE ||
        offset->kind != NUMBER || sizes->kind != TUPLE || strides->kind != TUPLE ||
        sizes->as.items.count != strides->as.items.count || sizes->as.items.count > RANK_MAX)
        return pc_fail(PC_ERR_FORMAT, "a tensor that is not made of storage, offset and shape");
    return push(m, (object){.kind = TENSOR,
                            .as.tensor = {(uint32_t)(storage - m->objects),
                                          (uint32_t)(sizes - m->objects),
                                          (uint32_t)(strides - m->objects), offset->as.number}});
}

static pc_status reduce(machine *m)
{
    uint32_t args = 0, what = 0;
    pc_status st = pop(m, &args);
    if (!st) st = pop(m, &what);
    if (st) return st;
    const object *c = &m->objects[what];
    if (c->kind != CLASS || m->objects[args].kind != TUPLE)
        return pc_fail(PC_ERR_FORMAT, "a call of something that is no known class; " CONVERT);
    if (c->as.named.class == REBUILD_TENSOR) return rebuild_tensor(m, args);
    if (c->as.named.class == REBUILD_PARAMETER) {
        const object *t = item(m, args, 0);
        if (!t || t->kind != TENSOR) return pc_fail(PC_ERR_FORMAT, "a parameter without a tensor");
        return push_to(&m->stack, (uint32_t)(t - m->objects));
    }
    if (c->as.named.class == ORDERED_DICT && !m->objects[args].as.items.count)
        return push(m, (object){.kind = DICT});
    return pc_fail(PC_ERR_FORMAT, "a call that plain weights never make; " CONVERT);
}

// Attributes of the object below (a state dict's _metadata): nothing that is needed.
static pc_status build(machine *m)
{
    uint32_t state;
    const uint32_t floor = m->marks.count ? m->marks.at[m->marks.count - 1] : 0;
    if (m->stack.count - floor < 2) return underflow();
    return pop(m, &state);
}

static pc_status memo_put(machine *m, uint64_t n)
{
    if (!m->stack.count) return underflow();
    if (n >= OBJECTS_MAX) return too_large();
    while (m->memo.count <= n) {
        const pc_status st = push_to(&m->memo, 0);
        if (st) return st;
    }
    m->memo.at[n] = m->stack.at[m->stack.count - 1] + 1;
    return PC_OK;
}

static pc_status memo_get(machine *m, uint64_t n)
{
    if (n >= m->memo.count || !m->memo.at[n])
        return pc_fail(PC_ERR_FORMAT, "memo %llu was never filled", (unsigned long long)n);
    return push_to(&m->stack, m->memo.at[n] - 1);
}

static pc_status put_by(machine *m, int bytes, pc_status (*f)(machine *, uint64_t))
{
    uint64_t n = 0;
    const pc_status st = number(m, &n, bytes);
    return st ? st : f(m, n);
}

// Long integers of up to 8 bytes.
static pc_status long_number(machine *m)
{
    uint64_t n = 0;
    const pc_status st = number(m, &n, 1);
    if (st) return st;
    if (n > 8) return pc_fail(PC_ERR_FORMAT, "an integer of %llu bytes", (unsigned long long)n);
    return push_number(m, (int)n, true);
}

static pc_status skip(machine *m, uint64_t n, kind k)
{
    const unsigned char *p;
    const pc_status st = take(m, &p, n);
    return st ? st : push(m, (object){.kind = k});
}

static pc_status after_mark(machine *m, pc_status (*f)(machine *, uint32_t))
{
    uint32_t from = 0;
    const pc_status st = pop_mark(m, &from);
    return st ? st : f(m, from);
}

static pc_status drop_items(machine *m, uint32_t from) // a list's: not needed
{
    if (!from) return underflow();
    m->stack.count = from;
    return PC_OK;
}

static pc_status step(machine *m, unsigned op)
{
    uint64_t n = 0;
    uint32_t x;
    switch (op) {
    case 0x80: return number(m, &n, 1);                                  // PROTO
    case 0x95: return number(m, &n, 8);                                  // FRAME
    case '(': return push_to(&m->marks, m->stack.count);                 // MARK
    case '}': return push(m, (object){.kind = DICT});                    // EMPTY_DICT
    case ']': return push(m, (object){.kind = OTHER});                   // EMPTY_LIST
    case ')': return push(m, (object){.kind = TUPLE});                   // EMPTY_TUPLE
    case 'N': return push(m, (object){.kind = NOTHING});                 // NONE
    case 0x88: return push(m, (object){.kind = NUMBER, .as.number = 1}); // NEWTRUE
    case 0x89: return push(m, (object){.kind = NUMBER});                 // NEWFALSE
    case 'K': return push_number(m, 1, false);                           // BININT1
    case 'M': return push_number(m, 2, false);                           // BININT2
    case 'J': return push_number(m, 4, true);                            // BININT
    case 0x8a: return long_number(m);                                    // LONG1
    case 'G': return skip(m, 8, OTHER);                                  // BINFLOAT
    case 'X': return push_text(m, 4);                                    // BINUNICODE
    case 0x8c: return push_text(m, 1);                                   // SHORT_BINUNICODE
    case 'U': return push_text(m, 1);                                    // SHORT_BINSTRING
    case 'q': return put_by(m, 1, memo_put);                             // BINPUT
    case 'r': return put_by(m, 4, memo_put);                             // LONG_BINPUT
    case 0x94: return memo_put(m, m->memo.count);                        // MEMOIZE
    case 'h': return put_by(m, 1, memo_get);                             // BINGET
    case 'j': return put_by(m, 4, memo_get);                             // LONG_BINGET
    case 't': return after_mark(m, push_tuple);                          // TUPLE
    case 0x85: return small_tuple(m, 1);                                 // TUPLE1
    case 0x86: return small_tuple(m, 2);                                 // TUPLE2
    case 0x87: return small_tuple(m, 3);                                 // TUPLE3
    case 's': return set_one(m);                                         // SETITEM
    case 'u': return after_mark(m, set_items);                           // SETITEMS
    case 'e': return after_mark(m, drop_items);                          // APPENDS
    case 'a': return pop(m, &x);                                         // APPEND
    case 'c': return global(m);                                          // GLOBAL
    case 0x93: return stack_global(m);                                   // STACK_GLOBAL
    case 'Q': return persistent(m);                                      // BINPERSID
    case 'R': return reduce(m);                                          // REDUCE
    case 'b': return build(m);                                           // BUILD
    default:
        return pc_fail(PC_ERR_FORMAT,
                       "opcode 0x%02x at byte %zu is none that plain weights need; " CONVERT, op,
                       (size_t)(m->p - m->begin) - 1);
    }
}

static pc_status run(machine *m, uint32_t *root)
{
    while (m->p < m->end) {
        const unsigned op = *m->p++;
        if (op == '.') return pop(m, root); // STOP
        const pc_status st = step(m, op);
        if (st) return st;
    }
    return pc_fail(PC_ERR_FORMAT, "the pickle has no end");
}

/* ---- tensors ---- */

static unsigned item_size(const char *dtype)
{
    switch (dtype[0] == 'B' && dtype[1] == 'O' ? 'O' : dtype[strlen(dtype) - 1]) {
    case '4': return 8; // F64, I64
    case '2': return 4; // F32, I32
    case '6': return 2; // F16, BF16, I16
    default: return 1;  // I8, U8, BOOL
    }
}

// Strided numbers in row-major order, into memory of the set's; never more than the storage has.
static pc_status copy_strided(pc_safetensors *s, pc_st_entry *e, const object *storage,
                              const int64_t *stride, int64_t offset, unsigned bytes)
{
    if (e->bytes > storage->as.storage.size)
        return pc_fail(PC_ERR_FORMAT, "its shape has more numbers than its storage");
    void **copies = realloc(s->copies, (size_t)(s->copy_count + 1) * sizeof *copies);
    if (!copies) return pc_fail(PC_ERR_MEMORY, "table of tensors");
    s->copies = copies;
    unsigned char *to = malloc(e->bytes + 1);
    if (!to) return pc_fail(PC_ERR_MEMORY, "%zu bytes", e->bytes);
    s->copies[s->copy_count++] = to;
    int64_t index[RANK_MAX] = {0};
    const size_t n = e->bytes / bytes;
    for (size_t k = 0; k < n; k++) {
        int64_t at = offset;
        for (int i = 0; i < e->rank; i++) at += index[i] * stride[i];
        memcpy(to + k * bytes, storage->as.storage.data + (size_t)at * bytes, bytes);
        for (int i = e->rank; i-- > 0;) {
            if (++index[i] < e->dim[i]) break;
            index[i] = 0;
        }
    }
    e->data = to;
    return PC_OK;
}

static pc_status add_tensor(pc_safetensors *s, const machine *m, const object *name,
                            const object *t)
{
    const object *storage = &m->objects[t->as.tensor.storage];
    pc_st_entry e = {.dtype = storage->as.storage.dtype,
                     .rank = (int)m->objects[t->as.tensor.sizes].as.items.count};
    const unsigned bytes = item_size(e.dtype);
    int64_t stride[RANK_MAX] = {0}, n = 1, last = t->as.tensor.offset, dense = 1;
    bool in_order = true;
    for (int i = e.rank; i-- > 0;) {
        const object *d = item(m, t->as.tensor.sizes, (uint32_t)i),
                     *k = item(m, t->as.tensor.strides, (uint32_t)i);
        if (d->kind != NUMBER || k->kind != NUMBER || d->as.number < 0 || k->as.number < 0)
            return pc_fail(PC_ERR_FORMAT, "its shape or strides are no numbers from 0 on");
        e.dim[i] = d->as.number;
        stride[i] = k->as.number;
        int64_t reach;
        if (__builtin_mul_overflow(n, e.dim[i], &n) ||
            __builtin_mul_overflow(e.dim[i] > 0 ? e.dim[i] - 1 : 0, stride[i], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return pc_fail(PC_ERR_FORMAT, "its shape does not fit 64 bits");
        in_order = in_order && (e.dim[i] == 1 || stride[i] == dense);
        if (__builtin_mul_overflow(dense, e.dim[i], &dense)) in_order = false;
    }
    const int64_t have = (int64_t)(storage->as.storage.size / bytes);
    if (t->as.tensor.offset < 0 || (n > 0 && last >= have) || n > INT64_MAX / 8)
        return pc_fail(PC_ERR_FORMAT, "its numbers end at %lld, its storage has %lld",
                       (long long)last + 1, (long long)have);
    e.bytes = (size_t)n * bytes;
    pc_status st = PC_OK;
    if (!n)
        e.data = storage->as.storage.data;
    else if (in_order)
        e.data = storage->as.storage.data + (size_t)t->as.tensor.offset * bytes;
    else
        st = copy_strided(s, &e, storage, stride, t->as.tensor.offset, bytes);
    return st ? st : pc_set_add(s, &e, name->as.text.at, name->as.text.size);
}

static bool plain_name(const object *name)
{
    return name->kind == TEXT && name->as.text.size > 0 &&
           !memchr(name->as.text.at, '\0', name->as.text.size);
}

static pc_status add_all(pc_safetensors *s, const machine *m, uint32_t dict, int64_t *added)
{
    pc_status st = PC_OK;
    *added = 0;
    for (uint32_t i = 0; i < m->pair_count && !st; i++) {
        const pair *p = &m->pairs[i];
        const object *name = &m->objects[p->key], *value = &m->objects[p->value];
        if (p->dict != dict || value->kind != TENSOR) continue;
        if (!plain_name(name)) return pc_fail(PC_ERR_FORMAT, "a tensor without a name");
        st = pc_context(add_tensor(s, m, name, value), "tensor '%.*s'",
                        (int)(name->as.text.size < 200 ? name->as.text.size : 200),
                        name->as.text.at);
        (*added)++;
    }
    return st;
}

// The state dict of a larger dict.
static bool inner_dict(const machine *m, uint32_t dict, uint32_t *inner)
{
    static const char *const names[] = {"state_dict", "model_state_dict", "model", "module", NULL};
    for (const char *const *name = names; *name; name++)
        for (uint32_t i = 0; i < m->pair_count; i++) {
            const pair *p = &m->pairs[i];
            const object *key = &m->objects[p->key];
            if (p->dict == dict && m->objects[p->value].kind == DICT && key->kind == TEXT &&
                same(key->as.text.at, key->as.text.size, *name)) {
                *inner = p->value;
                return true;
            }
        }
    return false;
}

static pc_status take_root(pc_safetensors *s, const machine *m, uint32_t root)
{
    int64_t added = 0;
    if (m->objects[root].kind != DICT)
        return pc_fail(PC_ERR_FORMAT, "it holds no dict of tensors; " CONVERT);
    pc_status st = add_all(s, m, root, &added);
    if (!st && !added && inner_dict(m, root, &root)) st = add_all(s, m, root, &added);
    if (!st && !added) st = pc_fail(PC_ERR_FORMAT, "it holds no tensors; " CONVERT);
    return st;
}

/* ---- the archive ---- */

bool pc_pickle_is(const unsigned char *bytes, size_t size)
{
    // A safetensors file may begin with any of these, as the length of its header, which begins with a brace.
    if (size < 9 || bytes[8] == '{') return false;
    return !memcmp(bytes, "PK\3\4", 4) || (bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5);
}

// "NAME/data.pkl"; NAME is the archive's own.
static const pc_zip_member *find_pickle(const pc_zip *z)
{
    for (size_t i = 0; i < z->count; i++) {
        const pc_zip_member *m = &z->list[i];
        const char *slash = memchr(m->name, '/', m->name_size);
        if (slash && same(slash + 1, m->name_size - (size_t)(slash + 1 - m->name), "data.pkl"))
            return m;
    }
    return NULL;
}

static pc_status read_archive(pc_safetensors *s, const pc_zip *z)
{
    const pc_zip_member *pickle = find_pickle(z);
    char name[256];
    if (!pickle) return pc_fail(PC_ERR_FORMAT, "a ZIP archive, but not PyTorch's: no data.pkl");
    if (pickle->size > PICKLE_MAX)
        return pc_fail(PC_ERR_FORMAT, "a pickle of %zu bytes; " CONVERT, pickle->size);
    machine m = {.p = pickle->data,
                 .begin = pickle->data,
                 .end = pickle->data + pickle->size,
                 .zip = z,
                 .folder = pickle->name,
                 .folder_size = pickle->name_size - 8};
    const int n = m.folder_size < 200
                      ? snprintf(name, sizeof name, "%.*sbyteorder", (int)m.folder_size, m.folder)
                      : 0;
    const pc_zip_member *order = n > 0 ? pc_zip_find(z, name, (size_t)n) : NULL;
    if (order && !same((const char *)order->data, order->size, "little"))
        return pc_fail(PC_ERR_FORMAT, "its numbers are not little-endian");
    uint32_t root = 0;
    pc_status st = run(&m, &root);
    if (!st) st = take_root(s, &m, root);
    free(m.objects);
    free(m.stack.at);
    free(m.marks.at);
    free(m.items.at);
    free(m.memo.at);
    free(m.pairs);
    return st;
}

pc_status pc_pickle_add(pc_safetensors *s, int file)
{
    const pc_mapping *map = &s->file[file];
    pc_zip z;
    if (memcmp(map->base, "PK\3\4", 4) != 0)
        return pc_fail(
            PC_ERR_FORMAT,
            "a bare pickle, as PyTorch wrote it before 1.6; load and save it once with a "
            "newer one, or " CONVERT);
    pc_status st = pc_zip_open(&z, map->base, map->size);
    if (!st) st = read_archive(s, &z);
    pc_zip_close(&z);
    return st;
}
