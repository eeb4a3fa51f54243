/*
 * native.c - writing the native checkpoint in HDF5 (layout: native.h).
 *
 * Equal content gives equal bytes: object times are off, the format version is pinned, names are listed in
 * the order of the parameter list, and nothing of the machine goes in. Numbers lie contiguous, so writing is one
 * call per tensor from the bound memory; numbers that come in pieces go straight to where HDF5 has
 * made room for them.
 */
#include "checkpoints/native_h5.h"

#include "checkpoints/h5_sink.h"
#include "model/core/file.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE (8 << 20) // bytes of a tensor written at once

struct pc_native_out {
    pc_h5_sink sink;
    hid_t fapl, fcpl, file, params;
    char path[PATH_MAX], tmp[PATH_MAX];
    void *buffer;
};

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
    const hid_t type = pc_h5_string_type(strlen(text) + 1);
    const hid_t d = type >= 0 ? make_dataset(group, name, type, 0, NULL) : type;
    const bool ok = d >= 0 && H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
    pc_status st = ok ? PC_OK : pc_h5_fail(PC_ERR_IO, "text '%s'", name);
    if (d >= 0) H5Dclose(d);
    if (type >= 0) H5Tclose(type);
    return st;
}

// `trained`: 0 or 1 as an attribute, negative for none.
static pc_status write_tensor(hid_t group, const pc_param *p, pc_tensor x, int trained)
{
    hsize_t dim[PC_MAX_RANK];
    for (int i = 0; i < x.rank; i++) dim[i] = (hsize_t)x.dim[i];
    const hid_t type = pc_h5_memory_type(x);
    const hid_t d = make_dataset(group, p->name, H5T_IEEE_F32LE, x.rank, dim);
    bool ok = d >= 0 && H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, x.data) >= 0;
    if (ok && trained >= 0) {
        const uint8_t value = (uint8_t)trained;
        ok = write_attribute(d, "trained", H5T_STD_U8LE, H5T_NATIVE_UINT8, &value);
    }
    pc_status st = ok ? PC_OK : pc_h5_fail(PC_ERR_IO, "tensor '%s'", p->name);
    if (d >= 0) H5Dclose(d);
    return st;
}

static pc_status write_header(hid_t file)
{
    const int32_t version = PC_NATIVE_VERSION;
    const hid_t type = pc_h5_string_type(sizeof PC_NATIVE_FORMAT);
    const bool ok = type >= 0 && write_attribute(file, "format", type, type, PC_NATIVE_FORMAT) &&
                    write_attribute(file, "version", H5T_STD_I32LE, H5T_NATIVE_INT32, &version);
    if (type >= 0) H5Tclose(type);
    return ok ? PC_OK : pc_h5_fail(PC_ERR_IO, "header");
}

static pc_status write_texts(hid_t file, const pc_native_text *text)
{
    pc_native_text copy = *text; // the slots want one that may be written
    const hid_t group = make_group(file, "text");
    pc_status st = group >= 0 ? PC_OK : pc_h5_fail(PC_ERR_IO, "group 'text'");
    for (int i = 0; i < PC_NATIVE_TEXTS && !st; i++)
        if (*pc_native_text_slot(&copy, i))
            st = write_text(group, pc_native_text_names[i], *pc_native_text_slot(&copy, i));
    if (group >= 0) H5Gclose(group);
    return st;
}

static pc_status write_carried(hid_t file, const pc_native_text *text)
{
    if (!text->file_count) return PC_OK;
    const hid_t group = make_group(file, "files");
    pc_status st = group >= 0 ? PC_OK : pc_h5_fail(PC_ERR_IO, "group 'files'");
    for (int i = 0; i < text->file_count && !st; i++) {
        const pc_native_file *f = &text->files[i];
        const hsize_t size = f->size;
        if (!size) continue;
        const hid_t d = make_dataset(group, f->name, H5T_STD_U8LE, 1, &size);
        const bool ok =
            d >= 0 && H5Dwrite(d, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, f->data) >= 0;
        if (!ok) st = pc_h5_fail(PC_ERR_IO, "file '%s'", f->name);
        if (d >= 0) H5Dclose(d);
    }
    if (group >= 0) H5Gclose(group);
    return st;
}

static pc_status write_params(pc_native_out *o, const pc_params *params)
{
    pc_status st = PC_OK;
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        st = write_tensor(o->params, p, p->weight->w, p->trainable);
        if (!st) st = pc_h5_sink_status(&o->sink);
    }
    return st;
}

// Of runs in eight bits alone: other files have no such group.
static pc_status write_history(hid_t moments, const pc_h5_sink *sink, const pc_params *params)
{
    hid_t group = H5I_INVALID_HID;
    pc_status st = PC_OK;
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        if (!pc_present(p->history)) continue;
        if (group < 0) group = make_group(moments, "history");
        st = group < 0 ? pc_h5_fail(PC_ERR_IO, "group 'moments/history'")
                       : write_tensor(group, p, p->history, -1);
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
    pc_status st = m >= 0 && v >= 0 ? PC_OK : pc_h5_fail(PC_ERR_IO, "group 'moments'");
    for (int i = 0; i < params->count && !st; i++) {
        const pc_param *p = &params->list[i];
        if (!pc_present(p->m)) continue;
        st = write_tensor(m, p, p->m, -1);
        if (!st) st = write_tensor(v, p, p->v, -1);
        if (!st) st = pc_h5_sink_status(sink);
    }
    if (m >= 0) H5Gclose(m);
    if (v >= 0) H5Gclose(v);
    if (!st) st = write_history(group, sink, params);
    if (group >= 0) H5Gclose(group);
    return st;
}

/* ---- a file in the making ---- */

static void close_ids(pc_native_out *o)
{
    if (o->params >= 0) H5Gclose(o->params);
    if (o->fcpl >= 0) H5Pclose(o->fcpl);
    if (o->fapl >= 0) H5Pclose(o->fapl);
    o->params = o->fcpl = o->fapl = H5I_INVALID_HID;
}

static pc_status create(pc_native_out *o, const pc_native_text *text)
{
    pc_status st = pc_h5_sink_open(&o->sink, o->tmp);
    if (st) return st;
    o->fapl = pc_h5_access_list();
    o->fcpl = H5Pcreate(H5P_FILE_CREATE);
    if (o->fapl >= 0 && o->fcpl >= 0 && pc_h5_sink_use(&o->sink, o->fapl) &&
        H5Pset_obj_track_times(o->fcpl, false) >= 0)
        o->file = H5Fcreate(o->tmp, H5F_ACC_TRUNC, o->fcpl, o->fapl);
    st = o->file >= 0 ? PC_OK : pc_h5_fail(PC_ERR_IO, "cannot create '%s'", o->tmp);
    if (!st) st = write_header(o->file);
    if (!st && text) st = write_texts(o->file, text);
    if (!st && text) st = write_carried(o->file, text);
    if (st) return st;
    o->params = make_group(o->file, "params");
    return o->params >= 0 ? PC_OK : pc_h5_fail(PC_ERR_IO, "group 'params'");
}

pc_status pc_native_begin(pc_native_out **out, const char *path, const pc_native_text *text)
{
    *out = NULL;
    pc_native_out *o = calloc(1, sizeof *o);
    if (!o) return pc_fail(PC_ERR_MEMORY, "checkpoint handle");
    o->sink.fd = -1;
    o->fapl = o->fcpl = o->file = o->params = H5I_INVALID_HID;
    pc_status st = snprintf(o->path, sizeof o->path, "%s", path) < (int)sizeof o->path
                       ? pc_file_temp(o->tmp, sizeof o->tmp, path)
                       : pc_fail(PC_ERR_INPUT, "path is too long");
    if (st) {
        free(o);
        return pc_context(st, "checkpoint '%s'", path);
    }
    pc_h5_quiet();
    st = create(o, text);
    if (st) return pc_native_end(o, st);
    *out = o;
    return PC_OK;
}

// Room in the file first, so that the numbers' place is known; then the numbers, past HDF5.
static pc_status fill_dataset(pc_native_out *o, hid_t dataset, pc_dtype t, int64_t n,
                              pc_native_fill *fill, void *arg)
{
    const haddr_t at = H5Dget_offset(dataset);
    const int64_t item = (int64_t)pc_dtype_size(t), piece = PIECE / item;
    if (at == HADDR_UNDEF) return pc_h5_fail(PC_ERR_IO, "no room in the file");
    if (!o->buffer && !(o->buffer = malloc(PIECE)))
        return pc_fail(PC_ERR_MEMORY, "a buffer of %d bytes", PIECE);
    pc_status st = PC_OK;
    for (int64_t k = 0; k < n && !st; k += piece) {
        const int64_t count = n - k < piece ? n - k : piece;
        if ((st = fill(arg, o->buffer, k, count))) break;
        st = pc_h5_sink_put(&o->sink, at + (haddr_t)(k * item), o->buffer, (size_t)(count * item));
    }
    return st;
}

static hid_t make_early(hid_t group, const char *name, hid_t type, int rank, const int64_t *shape)
{
    hsize_t dim[PC_MAX_RANK];
    for (int i = 0; i < rank; i++) dim[i] = (hsize_t)shape[i];
    const hid_t space = rank ? H5Screate_simple(rank, dim, NULL) : H5Screate(H5S_SCALAR);
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hid_t d = H5I_INVALID_HID;
    if (space >= 0 && list >= 0 && H5Pset_obj_track_times(list, false) >= 0 &&
        H5Pset_layout(list, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0)
        d = H5Dcreate2(group, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    return d;
}

pc_status pc_native_put(pc_native_out *o, const char *name, pc_dtype t, int rank,
                        const int64_t *dim, bool trained, pc_native_fill *fill, void *arg)
{
    PC_ASSERT(rank >= 0 && rank <= PC_MAX_RANK, "rank %d of '%s'", rank, name);
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    const uint8_t flag = trained;
    const hid_t type = pc_h5_float_type(t);
    const hid_t d = type >= 0 ? make_early(o->params, name, type, rank, dim) : type;
    pc_status st = d >= 0 && write_attribute(d, "trained", H5T_STD_U8LE, H5T_NATIVE_UINT8, &flag)
                       ? PC_OK
                       : pc_h5_fail(PC_ERR_IO, "cannot make it");
    if (!st) st = fill_dataset(o, d, t, n, fill, arg);
    if (d >= 0) H5Dclose(d);
    if (type >= 0) H5Tclose(type);
    return pc_context(st, "parameter '%s'", name);
}

// The disk's own error is the cause of whatever HDF5 then says: it goes first.
pc_status pc_native_end(pc_native_out *o, pc_status st)
{
    if (!o) return st;
    if (o->params >= 0) H5Gclose(o->params);
    o->params = H5I_INVALID_HID;
    if (o->file >= 0 && H5Fclose(o->file) < 0 && !st)
        st = pc_h5_fail(PC_ERR_IO, "cannot finish '%s'", o->tmp);
    close_ids(o);
    const bool made = o->sink.fd >= 0;
    const pc_status before = o->sink.error ? PC_ERR_IO : PC_OK;
    if (made && (!st || before)) {
        const pc_status disk = pc_h5_sink_close(&o->sink);
        if (disk) st = disk;
    } else if (made) {
        close(o->sink.fd);
    }
    if (!st) st = pc_file_commit(o->tmp, o->path);
    if (st && made) unlink(o->tmp);
    st = pc_context(st, "checkpoint '%s'", o->path);
    free(o->buffer);
    free(o);
    return st;
}

pc_status pc_native_write(const char *path, const pc_params *params, bool moments,
                          const pc_native_text *text)
{
    pc_native_out *o;
    pc_status st = pc_native_begin(&o, path, text);
    if (st) return st;
    st = write_params(o, params);
    H5Gclose(o->params); // before the next group: equal content is equal bytes
    o->params = H5I_INVALID_HID;
    if (!st && moments) st = write_moments(o->file, &o->sink, params);
    return pc_native_end(o, st);
}
