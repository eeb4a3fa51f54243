/*
 * zip.h - members of a mapped ZIP archive that are stored, not compressed: what PyTorch writes.
 *
 * The central directory is read (with ZIP64 fields, for archives above 4 GB); each member's own header must agree, and
 * its bytes lie inside the file. No two members may have one name.
 */
#ifndef PC_CHECKPOINTS_ZIP_H
#define PC_CHECKPOINTS_ZIP_H

#include "model/core/status.h"

typedef struct pc_zip_member {
    const char *name; // into the mapping, not NUL-terminated
    size_t name_size;
    const unsigned char *data;
    size_t size;
} pc_zip_member;

typedef struct pc_zip {
    pc_zip_member *list; // by name
    size_t count;
} pc_zip;

pc_status pc_zip_open(pc_zip *out, const unsigned char *base, size_t size);
void pc_zip_close(pc_zip *z); // a zeroed one is fine
const pc_zip_member *pc_zip_find(const pc_zip *z, const char *name, size_t name_size);

#endif
