/*
 * native_h5.h - what the files of the native checkpoint share around HDF5. Private to checkpoints/native*.c.
 *
 *   native.c       writing     native_read.c  reading      native_map.c  numbers where they lie in the file
 *   native_text.c  texts and carried files in memory       native_h5.c   HDF5's errors, types and checks
 *   superblock.c   the first bytes, before HDF5 sees the file
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

// The first bytes of a file of `size` bytes: HDF5 of a version that there is, no shorter than it says, whose addresses lie
// within it. PC_ERR_FORMAT says what it is instead, or how much of it is missing.
pc_status pc_h5_check_superblock(const char *path, int64_t size);
// A checkpoint, opened for reading: a regular file with our header.
pc_status pc_h5_open_native(hid_t *out, const char *path);
// Follows only a hard link; H5I_INVALID_HID when there is none of that name.
hid_t pc_h5_open_hard(hid_t where, const char *name, H5I_type_t kind);
pc_status pc_h5_check_plain(hid_t dataset, H5T_class_t kind);
// Rank and dimensions; rank -1 when they are more or larger than ours can be.
void pc_h5_read_shape(int *rank, int64_t dim[PC_MAX_RANK], hid_t dataset);

#endif
