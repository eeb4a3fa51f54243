/*
 * file.h - whole files in and out, safely.
 *
 * Everything written to disk is written beside its final name, fsynced, renamed over it, and the
 * directory is fsynced: a reader sees the old file or the new one, never half.
 */
#ifndef PC_CORE_FILE_H
#define PC_CORE_FILE_H

#include "model/core/status.h"

// Reads all of `path` (at most `limit` bytes) into a malloc'ed, NUL-terminated buffer; frees nothing.
pc_status pc_file_read(char **out, size_t *size, const char *path, size_t limit);
// Atomic replacement of `path` by `size` bytes.
pc_status pc_file_write(const char *path, const void *data, size_t size);

// For writers that need a path or a descriptor of their own (HDF5): take a temporary name beside
// `path` (into tmp), write and close it, then commit: fsync, rename, fsync of the directory.
pc_status pc_file_temp(char *tmp, size_t size, const char *path);
pc_status pc_file_commit(const char *tmp, const char *path);

pc_status pc_make_dirs(const char *path); // like mkdir -p
bool pc_file_exists(const char *path);
bool pc_is_dir(const char *path);
// dir + "/" + name into out; absolute names and names that climb out ("..") are PC_ERR_INPUT.
pc_status pc_path_inside(char *out, size_t size, const char *dir, const char *name);

// SHA-256 of a file or a buffer as 64 hexadecimal digits.
pc_status pc_file_sha256(char out[65], const char *path);
void pc_sha256(char out[65], const void *data, size_t size);

#endif
