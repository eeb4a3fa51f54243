/*
 * size.c - height and width of an image file, upright, from its first bytes alone.
 *
 * How many rows an image takes must be known before any is decoded. The file is mapped, so that only the pages of the
 * header are read. What is said here is checked again when the pixels are decoded.
 */
#include "data/images/decode.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <webp/decode.h>

/* The frame header of a JPEG: SOF0 .. SOF15, of which three numbers mean something else. */
static pc_status jpeg_size(int64_t *h, int64_t *w, const uint8_t *p, size_t n)
{
    size_t at = 2;
    while (at + 9 <= n) {
        if (p[at] != 0xFF) break;
        const uint8_t marker = p[at + 1];
        if (marker == 0xFF) { // fill byte
            at++;
            continue;
        }
        if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) { // no length behind it
            at += 2;
            continue;
        }
        if (marker == 0xD9 || marker == 0xDA) break;
        const size_t length = (size_t)p[at + 2] << 8 | p[at + 3];
        if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 &&
            marker != 0xCC) {
            *h = (int64_t)p[at + 5] << 8 | p[at + 6];
            *w = (int64_t)p[at + 7] << 8 | p[at + 8];
            return PC_OK;
        }
        if (length < 2) break;
        at += 2 + length;
    }
    return pc_fail(PC_ERR_FORMAT, "JPEG: no frame header");
}

static pc_status size_of(int64_t *h, int64_t *w, const uint8_t *p, size_t n)
{
    if (n >= 3 && p[0] == 0xFF && p[1] == 0xD8) return jpeg_size(h, w, p, n);
    if (n >= 12 && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4)) {
        WebPBitstreamFeatures f;
        if (WebPGetFeatures(p, n, &f) != VP8_STATUS_OK)
            return pc_fail(PC_ERR_FORMAT, "WebP: the header is damaged");
        *h = f.height;
        *w = f.width;
        return PC_OK;
    }
    return pc_other_size(h, w, p, n);
}

pc_status pc_image_size(int64_t *height, int64_t *width, const char *path, bool orient)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0) return pc_fail(PC_ERR_IO, "image '%s': %s", path, strerror(errno));
    if (fstat(fd, &info) || !S_ISREG(info.st_mode) || info.st_size < 1) {
        close(fd);
        return pc_fail(PC_ERR_FORMAT, "image '%s': the file is %s", path,
                       S_ISREG(info.st_mode) ? "empty" : "no regular file");
    }
    const size_t n = (size_t)info.st_size;
    void *map = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return pc_fail(PC_ERR_IO, "image '%s': %s", path, strerror(errno));
    int64_t h = 0, w = 0;
    pc_status st = size_of(&h, &w, map, n);
    if (!st) st = pc_image_check_size(w, h);
    const bool turned = !st && orient && pc_exif_orientation(map, n) >= 5; // rows become columns
    munmap(map, n);
    *height = turned ? w : h;
    *width = turned ? h : w;
    return pc_context(st, "image '%s'", path);
}
