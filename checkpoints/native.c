/*
 * native.c - the native checkpoint in HDF5 (layout: native.h).
 *
 * Equal content gives equal bytes: object times are off, the format version is pinned, names are listed in
 * the order of the parameter list, and nothing of the machine goes in. Numbers lie contiguous, so reading
 * and writing are one call per tensor between the file and the bound memory.
 *
 * A file is judged before it is believed: only hard links to plain contiguous float data are followed, so
 * a checkpoint cannot make the library open other files or load filters. HDF5 keeps global state:
 * one thread at a time.
 */
#include "checkpoints/native.h"

#include "checkpoints/h5_sink.h"
#include "model/core/file.h"
#include <errno.h>
#include <hdf5.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION     1
#define FORMAT      "percept"
#define NAMES_MAX   1000000
#define TEXTS_COUNT 6

static const char *const TEXTS[TEXTS_COUNT] = {"model",    "image",  "tokenizer",
                                               "template", "recipe", "state"};

static char **text_slot(pc_native_text *t, int i)
{
    char **const slots[TEXTS_COUNT] = {&t->model,         &t->image,  &t->tokenizer,
                                       &t->template_name, &t->recipe, &t->state};
    return slots[i];
}

void pc_native_text_close(pc_native_text *t)
{
    for (int i = 0; i < TEXTS_COUNT; i++) free(*text_slot(t, i));
    *t = (pc_native_text){0};
}

/* ---- HDF5's errors as ours ---- */

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *data)
{
    if (n == 0) snprintf(data, 256, "%s", e->desc ? e->desc : "");
    return 0;
}

// What the library said first, which is where it went wrong.
static pc_status fail_hdf5(pc_status code, const char *fmt, ...) PC_PRINTF(2, 3);
static pc_status fail_hdf5(pc_status code, const char *fmt, ...)
{
    char what[512], why[256] = "";
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, why);
    H5Eclear2(H5E_DEFAULT);
    return pc_fail(code, "%s%s%s", what, why[0] ? ": " : "", why);
}

// The error stack must not print; returns what was set before.
static void quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static hid_t access_list(void)
{
    const hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (fapl < 0) return fapl;
    // Fixed format; no file locks: files are replaced, never changed in place.
    if (H5Pset_libver_bounds(fapl, H5F_LIBVER_V18, H5F_LIBVER_V18) < 0 ||
        H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG) < 0 ||
        H5Pset_file_locking(fapl, false, true) < 0) {
        H5Pclose(fapl);
        return H5I_INVALID_HID;
    }
    return fapl;
}

/* ---- writing ---- */

static hid_t make_group(hid_t where, const char *name)
{
    const hid_t list = H5Pcreate(H5P_GROUP_CREATE);
    hid_t g = H5I_INVALID_HID;
    if (list < 0) return g;
    if (H5Pset_link_creation_order(list, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED) >= 0 &&
        H5Pset_obj_track_times(list, false) >= 0)
        g = H5Gcreate2(where, name, H5P_DEFAULT, list, H5P_DEFAULT);
    H5Pclose(list);
    return g;
}

static hid_t string_type(size_t size)
{
    const hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && (H5Tset_size(t, size) < 0 || H5Tset_cset(t, H5T_CSET_UTF8) < 0)) {
        H5Tclose(t);
        return H5I_INVALID_HID;
    }
    return t;
}

static bool write_attribute(hid_t object, const char *name, hid_t file_type, hid_t type,
                            const void *value)
{
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t a = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    const bool ok = a >= 0 && H5Awrite(a, type, value) >= 0;
    if (a >= 0) H5Aclose(a);
    if (space >= 0) H5Sclose(space);
    return ok;
}

// One dataset, contiguous, without times and without fill values (it is written whole).
static hid_t make_dataset(hid_t group, const char *name, hid_t type, int rank, const hsize_t *dim)
{
    const hid_t space = rank ? H5Screate_simple(rank, dim, NULL) : H5Screate(H5S_SCALAR);
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hid_t d = H5I_INVALID_HID;
    if (space >= 0 && list >= 0 && H5Pset_obj_track_times(list, false) >= 0 &&
        H5Pset_layout(list, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0)
        d = H5Dcreate2(group, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    return d;
}

static pc_status write_text(hid_t group, const char *name, const char *text)
{
    const hid_t type = string_type(strlen(text) + 1);
    const hid_t d = type >= 0 ? make_dataset(group, name, type, 0, NULL) : type;
    const bool ok = d >= 0 && H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
    pc_status st = ok ? PC_OK : fail_hdf5(PC_ERR_IO, "text '%s'", name);
    if (d >= 0) H5Dclose(d);
    if (type >= 0) H5Tclose(type);
    return st;
}

static hid_t memory_type(pc_tensor x)
{
    PC_ASSERT(x.dtype == PC_F32 || x.dtype == PC_F64, "dtype %s", pc_dtype_name(x.dtype));
    PC_ASSERT(pc_present(x) && pc_is_dense(x), "a tensor of rank %d is absent or not dense",
              x.rank);
    return x.dtype == PC_F32 ? H5T_NATIVE_FLOAT : H5T_NATIVE_DOUBLE;
}

// `trained`: 0 or 1 as an attribute, negative for none.
static pc_status write_tensor(hid_t group, const pc_param *p, pc_tensor x, int trained)
{
    hsize_t dim[PC_MAX_RANK];
    for (int i = 0; i < p->rank; i++) dim[i] = (hsize_t)p->dim[i];
    const hid_t type = memory_type(x);
    const hid_t d = make_dataset(group, p->name, H5T_IEEE_F32LE, p->rank, dim);
    bool ok = d >= 0 && H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, x.data) >= 0;
    if (ok && trained >= 0) {
        const uint8_t value = (uint8_t)trained;
        ok = write_attribute(d, "trained", H5T_STD_U8LE, H5T_NATIVE_UINT8, &value);
    }
    pc_status st = ok ? PC_OK : fail_hdf5(PC_ERR_IO, "tensor '%s'", p->name);
    if (d >= 0) H5Dclose(d);
    return st;
}

static pc_status write_header(hid_t file)
{
    const int32_t version = VERSION;
    const hid_t type = string_type(sizeof FORMAT);
    const bool ok = type >= 0 && write_attribute(file, "format", type, type, FORMAT) &&
                    write_attribute(file, "version", H5T_STD_I32LE, H5T_NATIVE_INT32, &version);
    if (type >= 0) H5Tclose(type);
    return ok ? PC_OK : fail_hdf5(PC_ERR_IO, "header");
}

static pc_status write_texts(hid_t file, const pc_native_text *text)
{
    pc_native_text copy = *text; // text_slot wants one that may be written
    const hid_t group = make_group(file, "text");
    pc_status st = group >= 0 ? PC_OK : fail_hdf5(PC_ERR_IO, "group 'text'");
    for (int i = 0; i < TEXTS_COUNT && !st; i++)
        if (*text_slot(&copy, i)) st = write_text(group, TEXTS[i], *text_slot(&copy, i));
    if (group >= 0) H5Gclose(group);
    return st;
}

static pc_status write_params(hid_t file, const pc_h5_sink *sink, const pc_params *params)
{
    const hid_t group = make_group(file, "params");
    pc_status st = group >= 0 ? PC_OK : fail_hdf5(PC_ERR_IO, "group 'params'");
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        st = write_tensor(group, p, p->weight->w, p->trainable);
        if (!st) st = pc_h5_sink_status(sink);
    }
    if (group >= 0) H5Gclose(group);
    return st;
}

static pc_status write_moments(hid_t file, const pc_h5_sink *sink, const pc_params *params)
{
    const hid_t group = make_group(file, "moments");
    const hid_t m = group >= 0 ? make_group(group, "m") : group;
    const hid_t v = group >= 0 ? make_group(group, "v") : group;
    pc_status st = m >= 0 && v >= 0 ? PC_OK : fail_hdf5(PC_ERR_IO, "group 'moments'");
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        if (!pc_present(p->m)) continue;
        st = write_tensor(m, p, p->m, -1);
        if (!st) st = write_tensor(v, p, p->v, -1);
        if (!st) st = pc_h5_sink_status(sink);
    }
    if (m >= 0) H5Gclose(m);
    if (v >= 0) H5Gclose(v);
    if (group >= 0) H5Gclose(group);
    return st;
}

// The disk's own error is the cause of whatever HDF5 then says: it goes first.
static pc_status write_file(const char *tmp, const pc_params *params, bool moments,
                            const pc_native_text *text)
{
    pc_h5_sink sink;
    pc_status st = pc_h5_sink_open(&sink, tmp);
    if (st) return st;
    const hid_t fapl = access_list();
    const hid_t fcpl = H5Pcreate(H5P_FILE_CREATE);
    hid_t file = H5I_INVALID_HID;
    if (fapl >= 0 && fcpl >= 0 && pc_h5_sink_use(&sink, fapl) &&
        H5Pset_obj_track_times(fcpl, false) >= 0)
        file = H5Fcreate(tmp, H5F_ACC_TRUNC, fcpl, fapl);
    st = file >= 0 ? PC_OK : fail_hdf5(PC_ERR_IO, "cannot create '%s'", tmp);
    if (!st) st = write_header(file);
    if (!st && text) st = write_texts(file, text);
    if (!st) st = write_params(file, &sink, params);
    if (!st && moments) st = write_moments(file, &sink, params);
    if (file >= 0 && H5Fclose(file) < 0 && !st)
        st = fail_hdf5(PC_ERR_IO, "cannot finish '%s'", tmp);
    if (fcpl >= 0) H5Pclose(fcpl);
    if (fapl >= 0) H5Pclose(fapl);
    const pc_status disk = pc_h5_sink_close(&sink);
    return disk ? disk : st;
}

pc_status pc_native_write(const char *path, const pc_params *params, bool moments,
                          const pc_native_text *text)
{
    char tmp[PATH_MAX];
    pc_status st = pc_file_temp(tmp, sizeof tmp, path);
    if (st) return st;
    quiet();
    if ((st = write_file(tmp, params, moments, text)) || (st = pc_file_commit(tmp, path)))
        unlink(tmp);
    return pc_context(st, "checkpoint '%s'", path);
}

/* ---- reading ---- */

static pc_status check_header(hid_t file)
{
    char format[16] = "";
    int32_t version = 0;
    const hid_t type = string_type(sizeof format);
    const hid_t a = H5Aopen(file, "format", H5P_DEFAULT);
    const hid_t b = H5Aopen(file, "version", H5P_DEFAULT);
    const bool ok = type >= 0 && a >= 0 && b >= 0 && H5Aread(a, type, format) >= 0 &&
                    H5Aread(b, H5T_NATIVE_INT32, &version) >= 0;
    if (a >= 0) H5Aclose(a);
    if (b >= 0) H5Aclose(b);
    if (type >= 0) H5Tclose(type);
    format[sizeof format - 1] = '\0';
    if (!ok || strcmp(format, FORMAT) != 0)
        return pc_fail(PC_ERR_FORMAT, "HDF5, but no percept checkpoint (attribute 'format')");
    if (version != VERSION)
        return pc_fail(PC_ERR_FORMAT, "format version %d, this percept reads %d", (int)version,
                       VERSION);
    return PC_OK;
}

static pc_status open_file(hid_t *out, const char *path)
{
    *out = H5I_INVALID_HID;
    struct stat info;
    if (stat(path, &info) != 0) return pc_fail_errno("cannot open");
    if (!S_ISREG(info.st_mode)) return pc_fail(PC_ERR_INPUT, "not a regular file");
    if (access(path, R_OK) != 0) return pc_fail_errno("cannot open");
    quiet();
    const hid_t fapl = access_list();
    *out = fapl >= 0 ? H5Fopen(path, H5F_ACC_RDONLY, fapl) : fapl;
    if (fapl >= 0) H5Pclose(fapl);
    if (*out < 0) return fail_hdf5(PC_ERR_FORMAT, "not an HDF5 file, or cut short");
    pc_status st = check_header(*out);
    if (st) {
        H5Fclose(*out);
        *out = H5I_INVALID_HID;
    }
    return st;
}

// Follows only a hard link; H5I_INVALID_HID when there is none of that name.
static hid_t open_hard(hid_t where, const char *name, H5I_type_t kind)
{
    H5L_info_t info;
    if (H5Lget_info(where, name, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD) {
        H5Eclear2(H5E_DEFAULT);
        return H5I_INVALID_HID;
    }
    const hid_t object = H5Oopen(where, name, H5P_DEFAULT);
    if (object >= 0 && H5Iget_type(object) != kind) {
        H5Oclose(object);
        return H5I_INVALID_HID;
    }
    return object;
}

// Data that lie in this file as they are: contiguous or compact, no external files.
static bool plain_layout(hid_t dataset)
{
    const hid_t list = H5Dget_create_plist(dataset);
    if (list < 0) return false;
    const H5D_layout_t layout = H5Pget_layout(list);
    const bool ok =
        (layout == H5D_CONTIGUOUS || layout == H5D_COMPACT) && H5Pget_external_count(list) == 0;
    H5Pclose(list);
    return ok;
}

static pc_status check_plain(hid_t dataset, H5T_class_t kind)
{
    const hid_t type = H5Dget_type(dataset);
    const bool ok = type >= 0 && H5Tget_class(type) == kind && plain_layout(dataset) &&
                    (kind != H5T_STRING || H5Tis_variable_str(type) == 0);
    if (type >= 0) H5Tclose(type);
    return ok ? PC_OK
              : pc_fail(PC_ERR_FORMAT, "not stored as plain %s",
                        kind == H5T_STRING ? "text" : "floating-point numbers");
}

// Rank and dimensions; rank -1 when they are more or larger than ours can be.
static void read_shape(int *rank, int64_t dim[PC_MAX_RANK], hid_t dataset)
{
    hsize_t d[PC_MAX_RANK] = {0};
    const hid_t space = H5Dget_space(dataset);
    *rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    if (*rank > PC_MAX_RANK || (*rank > 0 && H5Sget_simple_extent_dims(space, d, NULL) < 0))
        *rank = -1;
    for (int i = 0; i < *rank; i++) {
        dim[i] = (int64_t)d[i];
        if (d[i] > INT64_MAX) *rank = -1;
    }
    if (space >= 0) H5Sclose(space);
}

static pc_status read_text(char **out, hid_t group, const char *name, size_t file_size)
{
    *out = NULL;
    const hid_t d = open_hard(group, name, H5I_DATASET);
    if (d < 0) return PC_OK; // absent
    pc_status st = check_plain(d, H5T_STRING);
    const hid_t stored = H5Dget_type(d);
    const size_t size = stored >= 0 ? H5Tget_size(stored) : 0;
    int rank = 0;
    int64_t dim[PC_MAX_RANK];
    read_shape(&rank, dim, d);
    if (!st && (rank != 0 || size == 0 || size > file_size))
        st = pc_fail(PC_ERR_FORMAT, "not one text of %zu bytes", size);
    const hid_t type = st ? H5I_INVALID_HID : string_type(size);
    char *text = st ? NULL : calloc(1, size + 1);
    if (!st && !text) st = pc_fail(PC_ERR_MEMORY, "%zu bytes of text", size);
    if (!st && (type < 0 || H5Dread(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0))
        st = fail_hdf5(PC_ERR_FORMAT, "cannot read");
    if (st)
        free(text);
    else
        *out = text;
    if (type >= 0) H5Tclose(type);
    if (stored >= 0) H5Tclose(stored);
    H5Dclose(d);
    return pc_context(st, "text '%s'", name);
}

pc_status pc_native_read_text(pc_native_text *out, const char *path)
{
    *out = (pc_native_text){0};
    hid_t file, group = H5I_INVALID_HID;
    struct stat info = {0};
    pc_status st = open_file(&file, path);
    if (!st && stat(path, &info) != 0) st = pc_fail_errno("cannot open");
    if (!st) group = open_hard(file, "text", H5I_GROUP);
    for (int i = 0; i < TEXTS_COUNT && group >= 0 && !st; i++)
        st = read_text(text_slot(out, i), group, TEXTS[i], (size_t)info.st_size);
    if (group >= 0) H5Gclose(group);
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
    const hid_t d = open_hard(group, name, H5I_DATASET);
    if (d < 0) {
        l->st = pc_fail(PC_ERR_FORMAT, "parameter '%.200s' is no dataset of this file", name);
        return -1;
    }
    pc_native_item item = {.name = strdup(name), .trained = read_trained(d)};
    l->st = item.name ? check_plain(d, H5T_FLOAT) : pc_fail(PC_ERR_MEMORY, "a name");
    read_shape(&item.rank, item.dim, d);
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
    l->group = open_hard(file, "params", H5I_GROUP);
    if (l->group < 0) return pc_fail(PC_ERR_FORMAT, "no group 'params'");
    // Creation order is the order of the model's list; files made elsewhere may have none.
    herr_t e = H5Literate(l->group, H5_INDEX_CRT_ORDER, H5_ITER_INC, NULL, list_one, l);
    if (e < 0 && !l->st && !l->count)
        e = H5Literate(l->group, H5_INDEX_NAME, H5_ITER_INC, NULL, list_one, l);
    if (l->st) return l->st;
    return e < 0 ? fail_hdf5(PC_ERR_FORMAT, "cannot list the parameters") : PC_OK;
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
    pc_status st = open_file(&file, path);
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

static pc_status read_tensor(pc_tensor x, hid_t group, const pc_param *p)
{
    int rank = 0;
    int64_t dim[PC_MAX_RANK];
    const hid_t type = memory_type(x);
    const hid_t d = open_hard(group, p->name, H5I_DATASET);
    if (d < 0) return pc_fail(PC_ERR_FORMAT, "'%s' is missing", p->name);
    pc_status st = check_plain(d, H5T_FLOAT);
    read_shape(&rank, dim, d);
    if (!st && (rank != p->rank || (rank && memcmp(dim, p->dim, (size_t)rank * sizeof *dim) != 0)))
        st = pc_fail(PC_ERR_FORMAT, "its shape differs from the model's");
    if (!st && H5Dread(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, x.data) < 0)
        st = fail_hdf5(PC_ERR_FORMAT, "cannot read");
    H5Dclose(d);
    return pc_context(st, "'%s'", p->name);
}

static pc_status load_moments(pc_params *params, hid_t file)
{
    const hid_t group = open_hard(file, "moments", H5I_GROUP);
    if (group < 0) return pc_fail(PC_ERR_FORMAT, "the file has no optimiser state ('moments')");
    const hid_t m = open_hard(group, "m", H5I_GROUP), v = open_hard(group, "v", H5I_GROUP);
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
    pc_status st = open_file(&file, path);
    if (!st) st = load_all(params, file, moments, strict, &count);
    if (file >= 0) H5Fclose(file);
    if (loaded) *loaded = count;
    return pc_context(st, "checkpoint '%s'", path);
}
