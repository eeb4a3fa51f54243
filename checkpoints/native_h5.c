/*
 * native_h5.c - see native_h5.h.
 */
#include "checkpoints/native_h5.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- HDF5's errors as ours ---- */

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *data)
{
    if (n == 0) snprintf(data, 256, "%s", e->desc ? e->desc : "");
    return 0;
}

pc_status pc_h5_fail(pc_status code, const char *fmt, ...)
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

void pc_h5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

hid_t pc_h5_access_list(void)
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

hid_t pc_h5_string_type(size_t size)
{
    const hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && (H5Tset_size(t, size) < 0 || H5Tset_cset(t, H5T_CSET_UTF8) < 0)) {
        H5Tclose(t);
        return H5I_INVALID_HID;
    }
    return t;
}

hid_t pc_h5_memory_type(pc_tensor x)
{
    PC_ASSERT(x.dtype == PC_F32 || x.dtype == PC_F64, "dtype %s", pc_dtype_name(x.dtype));
    PC_ASSERT(pc_present(x) && pc_is_dense(x), "a tensor of rank %d is absent or not dense",
              x.rank);
    return x.dtype == PC_F32 ? H5T_NATIVE_FLOAT : H5T_NATIVE_DOUBLE;
}

// The narrow ones are described to HDF5 bit by bit, so that its own tools read them too.
hid_t pc_h5_float_type(pc_dtype t)
{
    if (t == PC_F32) return H5Tcopy(H5T_IEEE_F32LE);
    if (t == PC_F64) return H5Tcopy(H5T_IEEE_F64LE);
    PC_ASSERT(t == PC_BF16 || t == PC_F16, "dtype %s", pc_dtype_name(t));
    const bool b = t == PC_BF16;
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type < 0) return type;
    if (H5Tset_fields(type, 15, b ? 7 : 10, b ? 8 : 5, 0, b ? 7 : 10) < 0 ||
        H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, b ? 127 : 15) < 0) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

bool pc_h5_float_of(pc_dtype *out, hid_t type)
{
    static const pc_dtype known[] = {PC_F32, PC_BF16, PC_F16, PC_F64};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const hid_t t = pc_h5_float_type(known[i]);
        const bool same = t >= 0 && H5Tequal(t, type) > 0;
        if (t >= 0) H5Tclose(t);
        *out = known[i];
        if (same) return true;
    }
    return false;
}

static pc_status check_header(hid_t file)
{
    char format[16] = "";
    int32_t version = 0;
    const hid_t type = pc_h5_string_type(sizeof format);
    const hid_t a = H5Aopen(file, "format", H5P_DEFAULT);
    const hid_t b = H5Aopen(file, "version", H5P_DEFAULT);
    const bool ok = type >= 0 && a >= 0 && b >= 0 && H5Aread(a, type, format) >= 0 &&
                    H5Aread(b, H5T_NATIVE_INT32, &version) >= 0;
    if (a >= 0) H5Aclose(a);
    if (b >= 0) H5Aclose(b);
    if (type >= 0) H5Tclose(type);
    format[sizeof format - 1] = '\0';
    if (!ok || strcmp(format, PC_NATIVE_FORMAT) != 0)
        return pc_fail(PC_ERR_FORMAT, "HDF5, but no percept checkpoint (attribute 'format')");
    if (version != PC_NATIVE_VERSION)
        return pc_fail(PC_ERR_FORMAT, "format version %d, this percept reads %d", (int)version,
                       PC_NATIVE_VERSION);
    return PC_OK;
}

pc_status pc_h5_open_native(hid_t *out, const char *path)
{
    *out = H5I_INVALID_HID;
    struct stat info;
    if (stat(path, &info) != 0) return pc_fail_errno("cannot open");
    if (!S_ISREG(info.st_mode)) return pc_fail(PC_ERR_INPUT, "not a regular file");
    if (access(path, R_OK) != 0) return pc_fail_errno("cannot open");
    const pc_status whole = pc_h5_check_superblock(path, (int64_t)info.st_size);
    if (whole) return whole;
    pc_h5_quiet();
    const hid_t fapl = pc_h5_access_list();
    *out = fapl >= 0 ? H5Fopen(path, H5F_ACC_RDONLY, fapl) : fapl;
    if (fapl >= 0) H5Pclose(fapl);
    if (*out < 0) return pc_h5_fail(PC_ERR_FORMAT, "broken HDF5");
    pc_status st = check_header(*out);
    if (st) {
        H5Fclose(*out);
        *out = H5I_INVALID_HID;
    }
    return st;
}

hid_t pc_h5_open_hard(hid_t where, const char *name, H5I_type_t kind)
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

pc_status pc_h5_check_plain(hid_t dataset, H5T_class_t kind)
{
    const hid_t type = H5Dget_type(dataset);
    const bool ok = type >= 0 && H5Tget_class(type) == kind && plain_layout(dataset) &&
                    (kind != H5T_STRING || H5Tis_variable_str(type) == 0);
    if (type >= 0) H5Tclose(type);
    return ok ? PC_OK
              : pc_fail(PC_ERR_FORMAT, "not stored as plain %s",
                        kind == H5T_STRING ? "text" : "floating-point numbers");
}

void pc_h5_read_shape(int *rank, int64_t dim[PC_MAX_RANK], hid_t dataset)
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
