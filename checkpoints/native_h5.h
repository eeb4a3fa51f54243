/*
 * native_h5.h - what the files of the native checkpoint share around HDF5. Private to checkpoints/native*.c.
 *
 *   native.c       writing     native_read.c  reading      native_map.c  numbers where they lie in the file
 *   native_text.c  texts and carried files in memory       native_h5.c   HDF5's errors, types and checks
 */
#ifndef PC_CHECKPOINTS_NATIVE_H5_H
#define PC_CHECKPOINTS_NATIVE_H5_H

#include "checkpoints/native.h"
#include <hdf5.h>

#define PC_NATIVE_VERSION 1
#define PC_NATIVE_FORMAT  "percept"

enum { PC_NATIVE_TEXTS = 8 };
extern const char *const pc_native_text_names[PC_NATIVE_TEXTS];
char **pc_native_text_slot(pc_native_text *t, int i);

// pc_fail with what the library said first, which is where it went wrong.
pc_status pc_h5_fail(pc_status code, const char *fmt, ...) PC_PRINTF(2, 3);
void pc_h5_quiet(void); // the error stack must not print
hid_t pc_h5_access_list(void);
hid_t pc_h5_string_type(size_t size);
hid_t pc_h5_memory_type(pc_tensor x); // not to be closed
// f32, f64, bf16, f16 as files hold them, to be closed; and which of them a type is (false: none).
hid_t pc_h5_float_type(pc_dtype t);
bool pc_h5_float_of(pc_dtype *out, hid_t type);

// A checkpoint, opened for reading: a regular file with our header.
pc_status pc_h5_open_native(hid_t *out, const char *path);
// Follows only a hard link; H5I_INVALID_HID when there is none of that name.
hid_t pc_h5_open_hard(hid_t where, const char *name, H5I_type_t kind);
pc_status pc_h5_check_plain(hid_t dataset, H5T_class_t kind);
// Rank and dimensions; rank -1 when they are more or larger than ours can be.
void pc_h5_read_shape(int *rank, int64_t dim[PC_MAX_RANK], hid_t dataset);

#endif
