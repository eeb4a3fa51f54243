/*
 * native_read.c - reading the native checkpoint (layout: native.h).
 *
 * A file is judged before it is believed: only hard links to plain contiguous data are followed, so a checkpoint
 * cannot make the library open other files or load filters. HDF5 keeps global state: one thread at a time.
 */
#include "checkpoints/native_h5.h"

#include "checkpoints/numbers.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NAMES_MAX 1000000

/* ---- texts and files ---- */

static pc_status read_text(char **out, hid_t group, const char *name, size_t file_size)
{
    *out = NULL;
    const hid_t d = pc_h5_open_hard(group, name, H5I_DATASET);
    if (d < 0) return PC_OK; // absent
    pc_status st = pc_h5_check_plain(d, H5T_STRING);
    const hid_t stored = H5Dget_type(d);
    const size_t size = stored >= 0 ? H5Tget_size(stored) : 0;
    int rank = 0;
    int64_t dim[PC_MAX_RANK];
    pc_h5_read_shape(&rank, dim, d);
    if (!st && (rank != 0 || size == 0 || size > file_size))
        st = pc_fail(PC_ERR_FORMAT, "not one text of %zu bytes", size);
    const hid_t type = st ? H5I_INVALID_HID : pc_h5_string_type(size);
    char *text = st ? NULL : calloc(1, size + 1);
    if (!st && !text) st = pc_fail(PC_ERR_MEMORY, "%zu bytes of text", size);
    if (!st && (type < 0 || H5Dread(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0))
        st = pc_h5_fail(PC_ERR_FORMAT, "cannot read");
    if (st)
        free(text);
    else
        *out = text;
    if (type >= 0) H5Tclose(type);
    if (stored >= 0) H5Tclose(stored);
    H5Dclose(d);
    return pc_context(st, "text '%s'", name);
}

typedef struct carried {
    pc_native_text *text;
    size_t left; // bytes that may still be asked for: no more than the file has
    pc_status st;
} carried;

static pc_status read_carried(carried *c, hid_t group, const char *name)
{
    int rank = 0;
    int64_t dim[PC_MAX_RANK] = {0};
    if (!pc_native_file_name(name)) return pc_fail(PC_ERR_FORMAT, "not a plain file name");
    const hid_t d = pc_h5_open_hard(group, name, H5I_DATASET);
    if (d < 0) return pc_fail(PC_ERR_FORMAT, "no dataset of this file");
    pc_status st = pc_h5_check_plain(d, H5T_INTEGER);
    pc_h5_read_shape(&rank, dim, d);
    if (!st && (rank != 1 || dim[0] < 0 || (uint64_t)dim[0] > c->left))
        st = pc_fail(PC_ERR_FORMAT, "%lld bytes, more than the checkpoint has", (long long)dim[0]);
    const size_t size = st ? 0 : (size_t)dim[0];
    unsigned char *data = malloc(size + 1);
    if (!st && !data) st = pc_fail(PC_ERR_MEMORY, "%zu bytes", size);
    if (!st && H5Dread(d, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        st = pc_h5_fail(PC_ERR_FORMAT, "cannot read");
    if (!st) st = pc_native_add_file(c->text, name, data, size);
    c->left -= size;
    free(data);
    H5Dclose(d);
    return st;
}

static herr_t carry_one(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    (void)info;
    carried *c = data;
    c->st = pc_context(read_carried(c, group, name), "file '%.200s'", name);
    return c->st ? -1 : 0;
}

static pc_status read_files(pc_native_text *out, hid_t file, size_t file_size)
{
    carried c = {.text = out, .left = file_size};
    const hid_t group = pc_h5_open_hard(file, "files", H5I_GROUP);
    if (group < 0) return PC_OK;
    const herr_t e = H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, carry_one, &c);
    H5Gclose(group);
    if (c.st) return c.st;
    return e < 0 ? pc_h5_fail(PC_ERR_FORMAT, "cannot list the files") : PC_OK;
}

pc_status pc_native_read_text(pc_native_text *out, const char *path)
{
    *out = (pc_native_text){0};
    hid_t file, group = H5I_INVALID_HID;
    struct stat info = {0};
    pc_status st = pc_h5_open_native(&file, path);
    if (!st && stat(path, &info) != 0) st = pc_fail_errno("cannot open");
    if (!st) group = pc_h5_open_hard(file, "text", H5I_GROUP);
    for (int i = 0; i < PC_NATIVE_TEXTS && group >= 0 && !st; i++)
        st = read_text(pc_native_text_slot(out, i), group, pc_native_text_names[i],
                       (size_t)info.st_size);
    if (group >= 0) H5Gclose(group);
    if (!st) st = read_files(out, file, (size_t)info.st_size);
    if (file >= 0) H5Fclose(file);
    if (st) pc_native_text_close(out);
    return pc_context(st, "checkpoint '%s'", path);
}

/* ---- the list of parameters ---- */

typedef struct listing {
    pc_native_item *items;
    int64_t count, capacity;
    hid_t group;
    pc_status st;
} listing;

static bool read_trained(hid_t dataset)
{
    uint8_t value = 0;
    if (H5Aexists(dataset, "trained") <= 0) return false;
    const hid_t a = H5Aopen(dataset, "trained", H5P_DEFAULT);
    if (a < 0 || H5Aread(a, H5T_NATIVE_UINT8, &value) < 0) value = 0;
    if (a >= 0) H5Aclose(a);
    return value != 0;
}

static void read_type(pc_native_item *item, hid_t dataset)
{
    const hid_t type = H5Dget_type(dataset);
    item->plain = type >= 0 && pc_h5_float_of(&item->dtype, type);
    if (!item->plain) item->dtype = PC_F32; // what HDF5 makes of it
    if (type >= 0) H5Tclose(type);
}

static herr_t list_one(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    (void)info;
    listing *l = data;
    if (l->count == l->capacity) {
        const int64_t capacity = l->capacity ? 2 * l->capacity : 64;
        pc_native_item *items = realloc(l->items, (size_t)capacity * sizeof *items);
        if (!items || capacity > NAMES_MAX) {
            l->st = pc_fail(PC_ERR_MEMORY, "list of %lld parameters", (long long)capacity);
            if (items) l->items = items;
            return -1;
        }
        l->items = items;
        l->capacity = capacity;
    }
    const hid_t d = pc_h5_open_hard(group, name, H5I_DATASET);
    if (d < 0) {
        l->st = pc_fail(PC_ERR_FORMAT, "parameter '%.200s' is no dataset of this file", name);
        return -1;
    }
    pc_native_item item = {.name = strdup(name), .trained = read_trained(d)};
    l->st = item.name ? pc_h5_check_plain(d, H5T_FLOAT) : pc_fail(PC_ERR_MEMORY, "a name");
    pc_h5_read_shape(&item.rank, item.dim, d);
    read_type(&item, d);
    if (!l->st && item.rank < 0)
        l->st = pc_fail(PC_ERR_FORMAT, "more than %d dimensions", PC_MAX_RANK);
    l->st = pc_context(l->st, "parameter '%.200s'", name);
    H5Dclose(d);
    if (l->st) {
        free(item.name);
        return -1;
    }
    l->items[l->count++] = item;
    return 0;
}

static pc_status list_params(listing *l, hid_t file)
{
    l->group = pc_h5_open_hard(file, "params", H5I_GROUP);
    if (l->group < 0) return pc_fail(PC_ERR_FORMAT, "no group 'params'");
    // Creation order is the order of the model's list; files made elsewhere may have none.
    herr_t e = H5Literate(l->group, H5_INDEX_CRT_ORDER, H5_ITER_INC, NULL, list_one, l);
    if (e < 0 && !l->st && !l->count)
        e = H5Literate(l->group, H5_INDEX_NAME, H5_ITER_INC, NULL, list_one, l);
    if (l->st) return l->st;
    return e < 0 ? pc_h5_fail(PC_ERR_FORMAT, "cannot list the parameters") : PC_OK;
}

void pc_native_list_close(pc_native_item *items, int64_t n)
{
    for (int64_t i = 0; i < n; i++) free(items[i].name);
    free(items);
}

pc_status pc_native_list(pc_native_item **out, int64_t *n, const char *path)
{
    listing l = {.group = H5I_INVALID_HID};
    hid_t file;
    *out = NULL;
    *n = 0;
    pc_status st = pc_h5_open_native(&file, path);
    if (!st) st = list_params(&l, file);
    if (l.group >= 0) H5Gclose(l.group);
    if (file >= 0) H5Fclose(file);
    if (st) {
        pc_native_list_close(l.items, l.count);
        return pc_context(st, "checkpoint '%s'", path);
    }
    *out = l.items;
    *n = l.count;
    return PC_OK;
}

/* ---- loading ---- */

// "vision" of "vision.blocks.0.norm1.gain": names of one part share it.
static bool same_part(const char *a, const char *b)
{
    const size_t n = strcspn(a, ".");
    return strcspn(b, ".") == n && !memcmp(a, b, n);
}

static bool has_part(const listing *l, const char *name)
{
    for (int64_t i = 0; i < l->count; i++)
        if (same_part(l->items[i].name, name)) return true;
    return false;
}

static const pc_native_item *find_item(const listing *l, const char *name)
{
    for (int64_t i = 0; i < l->count; i++)
        if (!strcmp(l->items[i].name, name)) return &l->items[i];
    return NULL;
}

static const char *nearest_item(const listing *l, const char *name)
{
    const char **names = malloc((size_t)(l->count ? l->count : 1) * sizeof *names);
    if (!names) return NULL;
    for (int64_t i = 0; i < l->count; i++) names[i] = l->items[i].name;
    const char *near = pc_nearest(name, names, (int)l->count);
    free(names);
    return near;
}

static const char *dims_text(char *buf, size_t size, int rank, const int64_t *dim)
{
    size_t n = 0;
    n += (size_t)snprintf(buf, size, "(");
    for (int i = 0; i < rank && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? "," : "", (long long)dim[i]);
    if (n < size) snprintf(buf + n, size - n, ")");
    return buf;
}

static pc_status check_item(const listing *l, const pc_param *p)
{
    const pc_native_item *item = find_item(l, p->name);
    if (!item) {
        const char *near = nearest_item(l, p->name);
        return pc_fail(PC_ERR_FORMAT, "parameter '%s' is missing%s%s%s", p->name,
                       near ? " (the file has '" : "", near ? near : "", near ? "')" : "");
    }
    if (item->rank != p->rank ||
        (p->rank && memcmp(item->dim, p->dim, (size_t)p->rank * sizeof *p->dim) != 0)) {
        char has[96], wants[96];
        return pc_fail(PC_ERR_FORMAT, "parameter '%s': the file has %s, the model %s", p->name,
                       dims_text(has, sizeof has, item->rank, item->dim),
                       dims_text(wants, sizeof wants, p->rank, p->dim));
    }
    return PC_OK;
}

// Nothing in the file may be unknown to the model.
static pc_status check_surplus(const listing *l, pc_params *params)
{
    for (int64_t i = 0; i < l->count; i++) {
        if (pc_params_find(params, l->items[i].name)) continue;
        return pc_fail(PC_ERR_FORMAT, "the file's parameter '%.200s' is not one of the model's",
                       l->items[i].name);
    }
    return PC_OK;
}

// Numbers of n elements: by HDF5, or, of a narrow type, raw into the upper half of their room and widened from there
// (number i is read at byte 2n + 2i before anything beyond byte 4i + 3 is written).
static bool read_numbers(pc_tensor x, hid_t dataset)
{
    pc_dtype t;
    const hid_t type = H5Dget_type(dataset), memory = pc_h5_memory_type(x);
    const bool narrow =
        type >= 0 && x.dtype == PC_F32 && pc_h5_float_of(&t, type) && (t == PC_BF16 || t == PC_F16);
    const int64_t n = pc_numel(x);
    bool ok = type >= 0;
    if (ok && narrow) {
        char *upper = (char *)x.data + 2 * n;
        ok = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, upper) >= 0;
        if (ok) pc_widen(x.data, upper, t, n);
    } else if (ok) {
        ok = H5Dread(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, x.data) >= 0;
    }
    if (type >= 0) H5Tclose(type);
    return ok;
}

static pc_status read_tensor(pc_tensor x, hid_t group, const pc_param *p)
{
    int rank = 0;
    int64_t dim[PC_MAX_RANK];
    const hid_t d = pc_h5_open_hard(group, p->name, H5I_DATASET);
    if (d < 0) return pc_fail(PC_ERR_FORMAT, "'%s' is missing", p->name);
    pc_status st = pc_h5_check_plain(d, H5T_FLOAT);
    pc_h5_read_shape(&rank, dim, d);
    if (!st && (rank != x.rank || (rank && memcmp(dim, x.dim, (size_t)rank * sizeof *dim) != 0)))
        st = pc_fail(PC_ERR_FORMAT, "its shape differs from the model's");
    if (!st && !read_numbers(x, d)) st = pc_h5_fail(PC_ERR_FORMAT, "cannot read");
    H5Dclose(d);
    return pc_context(st, "'%s'", p->name);
}

static pc_status check_history(pc_tensor x)
{
    const float *h = x.data;
    for (int64_t i = 0; i < pc_numel(x); i++)
        if (!(h[i] >= 0.0f) || isinf(h[i]))
            return pc_fail(PC_ERR_FORMAT, "a largest number of %g", (double)h[i]);
    return PC_OK;
}

// Of what is bound: runs in eight bits have it.
static pc_status load_history(pc_params *params, hid_t moments)
{
    hid_t group = H5I_INVALID_HID;
    pc_status st = PC_OK;
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        if (!pc_present(p->history)) continue;
        if (group < 0) group = pc_h5_open_hard(moments, "history", H5I_GROUP);
        if (group < 0) return pc_fail(PC_ERR_FORMAT, "no group 'moments/history'");
        st = pc_context(read_tensor(p->history, group, p), "optimiser state history");
        if (!st)
            st = pc_context(check_history(p->history), "optimiser state history of '%s'", p->name);
    }
    if (group >= 0) H5Gclose(group);
    return st;
}

static pc_status load_moments(pc_params *params, hid_t file)
{
    const hid_t group = pc_h5_open_hard(file, "moments", H5I_GROUP);
    if (group < 0) return pc_fail(PC_ERR_FORMAT, "the file has no optimiser state ('moments')");
    const hid_t m = pc_h5_open_hard(group, "m", H5I_GROUP),
                v = pc_h5_open_hard(group, "v", H5I_GROUP);
    pc_status st =
        m >= 0 && v >= 0 ? PC_OK : pc_fail(PC_ERR_FORMAT, "no group 'moments/m' or '/v'");
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        if (!pc_present(p->m)) continue;
        st = pc_context(read_tensor(p->m, m, p), "optimiser state m");
        if (!st) st = pc_context(read_tensor(p->v, v, p), "optimiser state v");
    }
    if (m >= 0) H5Gclose(m);
    if (v >= 0) H5Gclose(v);
    if (!st) st = load_history(params, group);
    H5Gclose(group);
    return st;
}

static pc_status load_all(pc_params *params, hid_t file, bool moments, bool strict, int64_t *loaded)
{
    listing l = {.group = H5I_INVALID_HID};
    pc_status st = list_params(&l, file);
    // Everything is checked before the first number is touched.
    for (int i = 0; i < params->count && !st; i++)
        if (strict || has_part(&l, params->list[i].name)) st = check_item(&l, &params->list[i]);
    if (!st && strict) st = check_surplus(&l, params);
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        if (!strict && !has_part(&l, p->name)) continue;
        st = pc_context(read_tensor(p->weight->w, l.group, p), "parameter");
        if (!st) (*loaded)++;
    }
    if (!st && moments) st = load_moments(params, file);
    if (l.group >= 0) H5Gclose(l.group);
    pc_native_list_close(l.items, l.count);
    return st;
}

pc_status pc_native_load(pc_params *params, const char *path, bool moments, bool strict,
                         int64_t *loaded)
{
    int64_t count = 0;
    hid_t file;
    pc_status st = pc_h5_open_native(&file, path);
    if (!st) st = load_all(params, file, moments, strict, &count);
    if (file >= 0) H5Fclose(file);
    if (loaded) *loaded = count;
    return pc_context(st, "checkpoint '%s'", path);
}
