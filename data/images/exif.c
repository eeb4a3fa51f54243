/*
 * exif.c - the one EXIF tag that changes what a picture shows: 0x0112, orientation.
 *
 * It lies in the first directory of a TIFF structure, which JPEG keeps in an APP1 segment behind
 * "Exif\0\0", PNG in an eXIf chunk and WebP in an EXIF chunk. Anything that does not fit is no orientation.
 *
 *   stored pixel (x, y) of a w x h picture is shown at
 *   1 (x,y)  2 (w-1-x,y)  3 (w-1-x,h-1-y)  4 (x,h-1-y)  5 (y,x)  6 (h-1-y,x)  7 (h-1-y,w-1-x)  8 (y,w-1-x)
 */
#include "data/images/decode.h"

#include <stdlib.h>
#include <string.h>

typedef struct span {
    const uint8_t *p;
    size_t n;
} span;

static uint32_t number(const uint8_t *p, int bytes, bool big)
{
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++) v = v << 8 | p[big ? i : bytes - 1 - i];
    return v;
}

static int tiff_orientation(span t)
{
    if (t.n < 8) return 1;
    const bool big = !memcmp(t.p, "MM\0\x2a", 4);
    if (!big && memcmp(t.p, "II\x2a\0", 4) != 0) return 1;
    const size_t at = number(t.p + 4, 4, big);
    if (at > t.n - 2) return 1;
    const size_t entries = number(t.p + at, 2, big);
    for (size_t i = 0; i < entries; i++) {
        const size_t e = at + 2 + 12 * i;
        if (e + 12 > t.n) return 1;
        if (number(t.p + e, 2, big) != 0x0112) continue;
        const uint32_t type = number(t.p + e + 2, 2, big), count = number(t.p + e + 4, 4, big);
        const uint32_t v = number(t.p + e + 8, 2, big);
        return type == 3 && count == 1 && v >= 1 && v <= 8 ? (int)v : 1; // 3: SHORT
    }
    return 1;
}

static span strip_exif(span s)
{
    if (s.n >= 6 && !memcmp(s.p, "Exif\0\0", 6)) return (span){s.p + 6, s.n - 6};
    return s;
}

// Marker segments up to the first scan.
static span jpeg_exif(span f)
{
    size_t at = 2;
    while (at + 4 <= f.n && f.p[at] == 0xFF) {
        const uint8_t marker = f.p[at + 1];
        if (marker == 0xFF) { // fill byte
            at++;
            continue;
        }
        if (marker == 0xDA || marker == 0xD9) break;
        const size_t length = number(f.p + at + 2, 2, true);
        if (length < 2 || at + 2 + length > f.n) break;
        if (marker == 0xE1 && length >= 8 && !memcmp(f.p + at + 4, "Exif\0\0", 6))
            return (span){f.p + at + 10, length - 8};
        at += 2 + length;
    }
    return (span){NULL, 0};
}

static span png_exif(span f)
{
    size_t at = 8;
    while (at + 12 <= f.n) {
        const size_t length = number(f.p + at, 4, true);
        if (length > f.n - at - 12) break;
        if (!memcmp(f.p + at + 4, "eXIf", 4)) return strip_exif((span){f.p + at + 8, length});
        at += 12 + length;
    }
    return (span){NULL, 0};
}

static span webp_exif(span f)
{
    size_t at = 12;
    while (at + 8 <= f.n) {
        const size_t length = number(f.p + at + 4, 4, false);
        if (length > f.n - at - 8) break;
        if (!memcmp(f.p + at, "EXIF", 4)) return strip_exif((span){f.p + at + 8, length});
        at += 8 + length + (length & 1);
    }
    return (span){NULL, 0};
}

int pc_exif_orientation(const uint8_t *bytes, size_t size)
{
    const span f = {bytes, size};
    if (size < 12) return 1;
    if (bytes[0] == 0xFF && bytes[1] == 0xD8) return tiff_orientation(jpeg_exif(f));
    if (!memcmp(bytes, "\x89PNG", 4)) return tiff_orientation(png_exif(f));
    if (!memcmp(bytes, "RIFF", 4) && !memcmp(bytes + 8, "WEBP", 4))
        return tiff_orientation(webp_exif(f));
    return 1;
}

pc_status pc_image_orient(pc_image *im, int orientation)
{
    if (orientation <= 1 || orientation > 8) return PC_OK;
    const int64_t w = im->width, h = im->height;
    const bool swap = orientation >= 5, // rows become columns
        flip_x = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7,
               flip_y =
                   orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
    pc_image out = {0};
    pc_status st = pc_image_alloc(&out, swap ? h : w, swap ? w : h);
    if (st) return st;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            const int64_t across = swap ? y : x, down = swap ? x : y;
            const int64_t X = flip_x ? out.width - 1 - across : across,
                          Y = flip_y ? out.height - 1 - down : down;
            memcpy(out.rgb + 3 * (Y * out.width + X), im->rgb + 3 * (y * w + x), 3);
        }
    pc_image_close(im);
    *im = out;
    return PC_OK;
}
