/*
 * others.c - PNG, BMP, GIF (first picture) and binary PNM through stb_image.
 *
 * stb_image reads zeros past the end of a file and ignores checksums, so both are watched from here: its
 * reads go through a reader that notices the end, and the chunks of a PNG are checked before.
 */
#include "data/images/decode.h"

#include <limits.h>
#include <string.h>
#define STBI_NO_STDIO
#include <stb/stb_image.h>

typedef struct reader {
    const uint8_t *bytes;
    size_t size, at;
    const void *buffer; // stb's own buffer: a short fill of it is no harm
    bool past;          // something beyond the end was asked for
} reader;

static int reader_read(void *user, char *data, int size)
{
    reader *r = user;
    const size_t rest = r->size - r->at, n = rest < (size_t)size ? rest : (size_t)size;
    if (!r->buffer) r->buffer = data; // the first read fills it
    if (n == 0 || (n < (size_t)size && data != r->buffer)) r->past = true;
    memcpy(data, r->bytes + r->at, n);
    r->at += n;
    return (int)n;
}

static void reader_skip(void *user, int n)
{
    reader *r = user;
    if (n < 0) {
        const size_t back = (size_t)-n;
        r->at -= back < r->at ? back : r->at;
    } else if ((size_t)n > r->size - r->at) {
        r->at = r->size;
        r->past = true;
    } else {
        r->at += (size_t)n;
    }
}

static int reader_eof(void *user)
{
    const reader *r = user;
    return r->at >= r->size;
}

// CRC-32 of PNG (ISO 3309), four bits at a time.
static uint32_t crc32(const uint8_t *p, size_t n)
{
    static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
                                       0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                       0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                       0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        c = c >> 4 ^ table[c & 15];
        c = c >> 4 ^ table[c & 15];
    }
    return ~c;
}

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// The header's size must make sense, and the chunks that make the picture must be whole.
static pc_status check_png(const uint8_t *bytes, size_t size)
{
    if (size < 33 || memcmp(bytes + 12, "IHDR", 4) != 0)
        return pc_fail(PC_ERR_FORMAT, "PNG: the file has no header");
    pc_status st = pc_image_check_size(big_endian(bytes + 16), big_endian(bytes + 20));
    if (st) return pc_context(st, "PNG");
    for (size_t at = 8; at < size;) {
        if (size - at < 12) return pc_fail(PC_ERR_FORMAT, "PNG: the file is cut short");
        const uint8_t *chunk = bytes + at, *type = chunk + 4;
        const size_t length = big_endian(chunk);
        if (length > size - at - 12) return pc_fail(PC_ERR_FORMAT, "PNG: the file is cut short");
        if (!memcmp(type, "IEND", 4)) return PC_OK;
        const bool critical = !(type[0] & 0x20);
        if (critical && crc32(type, length + 4) != big_endian(chunk + 8 + length))
            return pc_fail(PC_ERR_FORMAT, "PNG: wrong checksum of the chunk at byte %zu", at);
        at += 12 + length;
    }
    return PC_OK; // no IEND: the picture may still be whole
}

static pc_status check_gif(const uint8_t *bytes, size_t size)
{
    if (size < 13) return pc_fail(PC_ERR_FORMAT, "GIF: the file is cut short");
    return pc_context(pc_image_check_size(bytes[6] | bytes[7] << 8, bytes[8] | bytes[9] << 8),
                      "GIF");
}

static const char *format_name(const uint8_t *bytes)
{
    switch (bytes[0]) {
    case 0x89: return "PNG";
    case 'B': return "BMP";
    case 'G': return "GIF";
    default: return "PNM";
    }
}

// Grey, grey with alpha, RGB or RGBA to RGB.
static void to_rgb(uint8_t *rgb, const uint8_t *p, int channels, int64_t pixels, bool drop_alpha)
{
    if (channels == 3) {
        memcpy(rgb, p, (size_t)(3 * pixels));
        return;
    }
    const bool colour = channels >= 3, alpha = (channels == 2 || channels == 4) && !drop_alpha;
    for (int64_t i = 0; i < pixels; i++, p += channels)
        for (int c = 0; c < 3; c++) {
            const uint8_t v = p[colour ? c : 0];
            rgb[3 * i + c] = alpha ? pc_over_white(v, p[channels - 1]) : v;
        }
}

pc_status pc_other_decode(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha)
{
    const char *name = format_name(bytes);
    pc_status st = PC_OK;
    int w = 0, h = 0, channels = 0;
    if (size > INT_MAX) return pc_fail(PC_ERR_INPUT, "%s: %zu bytes are too many", name, size);
    if (bytes[0] == 0x89 && (st = check_png(bytes, size))) return st;
    if (bytes[0] == 'G' && (st = check_gif(bytes, size))) return st;
    if (!stbi_info_from_memory(bytes, (int)size, &w, &h, &channels))
        return pc_fail(PC_ERR_FORMAT, "%s: %s", name, stbi_failure_reason());
    if ((st = pc_image_alloc(out, w, h))) return st;

    const stbi_io_callbacks io = {reader_read, reader_skip, reader_eof};
    reader r = {.bytes = bytes, .size = size};
    uint8_t *pixels = stbi_load_from_callbacks(&io, &r, &w, &h, &channels, 0);
    if (r.past) {
        st = pc_fail(PC_ERR_FORMAT, "%s: the file is cut short", name);
    } else if (!pixels) {
        st = pc_fail(PC_ERR_FORMAT, "%s: %s", name, stbi_failure_reason());
    } else if (w != out->width || h != out->height) {
        st = pc_fail(PC_ERR_FORMAT, "%s: two sizes, (%d,%d) and (%lld,%lld)", name, w, h,
                     (long long)out->width, (long long)out->height);
    } else {
        to_rgb(out->rgb, pixels, channels, out->width * out->height, drop_alpha);
    }
    stbi_image_free(pixels);
    return st;
}

pc_status pc_other_size(int64_t *height, int64_t *width, const uint8_t *bytes, size_t size)
{
    int w = 0, h = 0, channels = 0;
    if (size >= 33 && bytes[0] == 0x89) { // without reading the chunks behind it
        *width = big_endian(bytes + 16);
        *height = big_endian(bytes + 20);
        return PC_OK;
    }
    if (size > INT_MAX) return pc_fail(PC_ERR_INPUT, "%zu bytes are too many", size);
    if (!stbi_info_from_memory(bytes, (int)size, &w, &h, &channels))
        return pc_fail(PC_ERR_FORMAT, "not an image: %s", stbi_failure_reason());
    *height = h;
    *width = w;
    return PC_OK;
}
