/*
 * native_map.c - a native checkpoint's parameters where they lie in the file, mapped.
 *
 * HDF5 says where a contiguous dataset begins; from there on the numbers are read as those of a safetensors file are,
 * and nothing is copied. What lies otherwise (small data kept in their header, foreign types) is read into
 * memory.
 */
#include "checkpoints/native_h5.h"
#include "checkpoints/numbers.h"
#include "checkpoints/tensor_set.h"

#include <stdlib.h>
#include <string.h>

static pc_status numel_of(int64_t *n, const pc_native_item *item)
{
    *n = 1;
    for (int i = 0; i < item->rank; i++)
        if (__builtin_mul_overflow(*n, item->dim[i], n))
            return pc_fail(PC_ERR_FORMAT, "its shape does not fit 64 bits");
    if (*n > INT64_MAX / 8) return pc_fail(PC_ERR_FORMAT, "its shape does not fit 64 bits");
    return PC_OK;
}

// Read by HDF5 as f32; the file must at least be of that size, whatever it claims.
static pc_status copy_numbers(pc_safetensors *s, pc_st_entry *e, hid_t dataset, int64_t n)
{
    if ((uint64_t)n > s->file[0].size)
        return pc_fail(PC_ERR_FORMAT, "%lld numbers, more than the file has bytes", (long long)n);
    void **copies = realloc(s->copies, (size_t)(s->copy_count + 1) * sizeof *copies);
    if (!copies) return pc_fail(PC_ERR_MEMORY, "table of tensors");
    s->copies = copies;
    void *data = calloc((size_t)n + 1, sizeof(float));
    if (!data) return pc_fail(PC_ERR_MEMORY, "%lld numbers", (long long)n);
    s->copies[s->copy_count++] = data;
    if (H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        return pc_h5_fail(PC_ERR_FORMAT, "cannot read");
    e->dtype = "F32";
    e->data = data;
    e->bytes = (size_t)n * sizeof(float);
    return PC_OK;
}

static pc_status add_item(pc_safetensors *s, hid_t group, const pc_native_item *item)
{
    int64_t n;
    pc_status st = numel_of(&n, item);
    if (st) return st;
    pc_st_entry e = {.rank = item->rank, .dtype = pc_dtype_text(item->dtype)};
    memcpy(e.dim, item->dim, sizeof item->dim);
    e.bytes = (size_t)n * pc_dtype_size(item->dtype);
    const hid_t d = pc_h5_open_hard(group, item->name, H5I_DATASET);
    if (d < 0) return pc_fail(PC_ERR_FORMAT, "cannot open");
    const haddr_t at = item->plain ? H5Dget_offset(d) : HADDR_UNDEF;
    const pc_mapping *m = &s->file[0];
    H5Eclear2(H5E_DEFAULT);
    if (at == HADDR_UNDEF)
        st = copy_numbers(s, &e, d, n);
    else if (e.bytes > m->size || at > m->size - e.bytes)
        st = pc_fail(PC_ERR_FORMAT, "its data end behind the end of the file");
    else
        e.data = m->base + at;
    H5Dclose(d);
    return st ? st : pc_set_add(s, &e, item->name, strlen(item->name));
}

static pc_status map_all(pc_safetensors *s, const char *path)
{
    pc_native_item *items = NULL;
    pc_mapping *m;
    int64_t n = 0;
    hid_t file = H5I_INVALID_HID, group = H5I_INVALID_HID;
    pc_status st = pc_native_list(&items, &n, path);
    if (st) return st; // names the file
    st = pc_set_map(s, &m, path, 8);
    if (!st) st = pc_h5_open_native(&file, path);
    if (!st && (group = pc_h5_open_hard(file, "params", H5I_GROUP)) < 0)
        st = pc_fail(PC_ERR_FORMAT, "no group 'params'");
    for (int64_t i = 0; i < n && !st; i++)
        st = pc_context(add_item(s, group, &items[i]), "parameter '%.200s'", items[i].name);
    if (!st) st = pc_set_sort(s);
    if (group >= 0) H5Gclose(group);
    if (file >= 0) H5Fclose(file);
    pc_native_list_close(items, n);
    return pc_context(st, "checkpoint '%s'", path);
}

pc_status pc_native_map(pc_safetensors **out, const char *path)
{
    *out = NULL;
    pc_safetensors *s = calloc(1, sizeof *s);
    if (!s) return pc_fail(PC_ERR_MEMORY, "checkpoint handle");
    const pc_status st = map_all(s, path);
    if (st)
        pc_safetensors_close(s);
    else
        *out = s;
    return st;
}
