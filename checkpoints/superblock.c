/*
 * superblock.c - the first bytes of an HDF5 file, looked at before the library is given the rest: a file that is
 * something else, or less than it says it is, ends in one clear sentence.
 *
 *   byte 0   signature 89 48 44 46 0D 0A 1A 0A       8   version of the superblock
 *   version 0, 1:   13 size of addresses, 14 of lengths; from 24 (1: 28) on four addresses: base, free space, end of
 *                   file, driver; the root group's entry, whose second number is the address of its header
 *   version 2, 3:   9 and 10 the sizes; from 12 on four addresses: base, extension, end of file, root group
 *
 * (HDF5 File Format Specification 3.0, II.A.) Files of percept are of version 2; others are let through to the
 * check of what they hold.
 */
#include "checkpoints/native_h5.h"

#include <stdio.h>
#include <string.h>

static const unsigned char SIGNATURE[8] = {0x89, 'H', 'D', 'F', 0x0D, 0x0A, 0x1A, 0x0A};
static const uint64_t NOWHERE = UINT64_MAX;

static uint64_t u64_at(const unsigned char *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* What a file is that is no HDF5 file; NULL: who knows. */
static const char *other_kind(const unsigned char *p, size_t n)
{
    if (n >= 4 && !memcmp(p, "GGUF", 4)) return "a GGUF file";
    if (n >= 4 && !memcmp(p, "PK\3\4", 4)) return "a ZIP archive, as torch.save writes";
    if (n >= 2 && p[0] == 0x1F && p[1] == 0x8B) return "a gzip file";
    if (n >= 9 && u64_at(p) < (uint64_t)1 << 27 && p[8] == '{') return "a safetensors file";
    if (n >= 1 && (p[0] == '{' || p[0] == '<' || p[0] == '#')) return "text";
    return NULL;
}

static pc_status no_hdf5(const unsigned char *p, size_t n, int64_t size)
{
    char begin[3 * 8 + 1] = "";
    const char *kind = other_kind(p, n);
    if (size == 0) return pc_fail(PC_ERR_FORMAT, "not an HDF5 file: it is empty");
    if (n < sizeof SIGNATURE && !memcmp(p, SIGNATURE, n))
        return pc_fail(PC_ERR_FORMAT, "not an HDF5 file, or cut short: it has %lld bytes",
                       (long long)size);
    if (kind) return pc_fail(PC_ERR_FORMAT, "not an HDF5 file: it is %s", kind);
    for (size_t i = 0; i < n && i < 8; i++) snprintf(begin + 3 * i, 4, "%02x ", p[i]);
    return pc_fail(PC_ERR_FORMAT, "not an HDF5 file: it begins with %s", begin);
}

static pc_status check_end(uint64_t end, uint64_t root, uint64_t least, int64_t size)
{
    if (end > (uint64_t)size)
        return pc_fail(PC_ERR_FORMAT, "cut short: %lld bytes of %llu", (long long)size,
                       (unsigned long long)end);
    if (end < least || root < least || root >= end)
        return pc_fail(PC_ERR_FORMAT,
                       "broken HDF5: the root group at %llu in a file that ends at %llu",
                       (unsigned long long)root, (unsigned long long)end);
    return PC_OK;
}

pc_status pc_h5_check_superblock(const char *path, int64_t size)
{
    unsigned char p[112] = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return pc_fail_errno("cannot open");
    const size_t n = fread(p, 1, sizeof p, f);
    fclose(f);
    if (n < sizeof SIGNATURE || memcmp(p, SIGNATURE, sizeof SIGNATURE)) return no_hdf5(p, n, size);
    const int version = p[8];
    const bool newer = version >= 2;
    // Up to the root group's address, and in newer ones the checksum behind it.
    const size_t at = newer ? 12 : version ? 28 : 24, whole = newer ? 48 : at + 48;
    if (n > 8 && version > 3)
        return pc_fail(PC_ERR_FORMAT, "HDF5 superblock of version %d; expected 0 to 3", version);
    if (n < whole)
        return pc_fail(PC_ERR_FORMAT, "cut short: %zu bytes, the superblock alone has %zu", n,
                       whole);
    const int addresses = p[newer ? 9 : 13], lengths = p[newer ? 10 : 14];
    if (addresses != 8 || lengths != 8)
        return pc_fail(PC_ERR_FORMAT,
                       "HDF5 with addresses of %d and lengths of %d bytes; expected 8", addresses,
                       lengths);
    const uint64_t base = u64_at(p + at), second = u64_at(p + at + 8), end = u64_at(p + at + 16);
    if (base != 0)
        return pc_fail(PC_ERR_FORMAT, "HDF5 that begins at byte %llu of the file; expected 0",
                       (unsigned long long)base);
    if (second != NOWHERE && second >= end) // the extension, or the list of free space
        return pc_fail(PC_ERR_FORMAT, "broken HDF5: an address, %llu, behind the end at %llu",
                       (unsigned long long)second, (unsigned long long)end);
    return check_end(end, u64_at(p + at + (newer ? 24 : 40)), (uint64_t)whole, size);
}
