/*
 * decode.c - a file's bytes to an upright RGB image: which format it is, by its first bytes and never by
 * its name; limits; orientation.
 */
#include "data/images/decode.h"

#include "model/core/file.h"
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)1 << 30) // bytes

pc_status pc_image_check_size(int64_t width, int64_t height)
{
    if (width <= 0 || height <= 0)
        return pc_fail(PC_ERR_FORMAT, "the image is %lld x %lld pixels", (long long)width,
                       (long long)height);
    if (width > PC_IMAGE_PIXELS_MAX || height > PC_IMAGE_PIXELS_MAX / width)
        return pc_fail(PC_ERR_INPUT,
                       "the image is %lld x %lld pixels, at most %lld pixels are read",
                       (long long)width, (long long)height, (long long)PC_IMAGE_PIXELS_MAX);
    return PC_OK;
}

pc_status pc_image_alloc(pc_image *out, int64_t width, int64_t height)
{
    pc_status st = pc_image_check_size(width, height);
    if (st) return st;
    const size_t bytes = (size_t)(width * height) * 3;
    out->rgb = malloc(bytes);
    if (!out->rgb) return pc_fail(PC_ERR_MEMORY, "%zu bytes of an image", bytes);
    out->width = width;
    out->height = height;
    return PC_OK;
}

void pc_image_close(pc_image *im)
{
    free(im->rgb);
    *im = (pc_image){0};
}

typedef pc_status decoder(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha);

// What begins how. Formats that are known and not read are named in the error.
static const struct {
    const char *magic;
    size_t at, length;
    const char *name;
    decoder *decode; // NULL: not read
} FORMATS[] = {
    {"\xFF\xD8\xFF", 0, 3, "JPEG", pc_jpeg_decode},
    {"\x89PNG\r\n\x1a\n", 0, 8, "PNG", pc_other_decode},
    {"GIF87a", 0, 6, "GIF", pc_other_decode},
    {"GIF89a", 0, 6, "GIF", pc_other_decode},
    {"BM", 0, 2, "BMP", pc_other_decode},
    {"P5", 0, 2, "PGM", pc_other_decode},
    {"P6", 0, 2, "PPM", pc_other_decode},
    {"WEBP", 8, 4, "WebP", pc_webp_decode},
    {"II*\0", 0, 4, "TIFF", NULL},
    {"MM\0*", 0, 4, "TIFF", NULL},
    {"II+\0", 0, 4, "TIFF", NULL},
    {"MM\0+", 0, 4, "TIFF", NULL},
    {"ftyp", 4, 4, "HEIF, AVIF or video", NULL},
    {"jP  ", 4, 4, "JPEG 2000", NULL},
    {"\xFF\x4F\xFF\x51", 0, 4, "JPEG 2000", NULL},
    {"JXL ", 4, 4, "JPEG XL", NULL},
    {"\xFF\x0A", 0, 2, "JPEG XL", NULL},
    {"\0\0\1\0", 0, 4, "icon", NULL},
    {"8BPS", 0, 4, "Photoshop", NULL},
    {"%PDF", 0, 4, "PDF", NULL},
    {"DICM", 128, 4, "DICOM", NULL},
    {"<svg", 0, 4, "SVG", NULL},
    {"<?xml", 0, 5, "XML", NULL},
    {"<!DOCTYPE", 0, 9, "HTML", NULL},
    {"<!doctype", 0, 9, "HTML", NULL},
    {"<html", 0, 5, "HTML", NULL},
};

static pc_status decode_any(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha)
{
    if (size == 0) return pc_fail(PC_ERR_FORMAT, "the file is empty");
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++) {
        if (size < FORMATS[i].at + FORMATS[i].length ||
            memcmp(bytes + FORMATS[i].at, FORMATS[i].magic, FORMATS[i].length) != 0)
            continue;
        if (FORMATS[i].decode) return FORMATS[i].decode(out, bytes, size, drop_alpha);
        return pc_fail(PC_ERR_FORMAT,
                       "the file is %s, which is not read; convert it to PNG, JPEG or WebP",
                       FORMATS[i].name);
    }
    return pc_fail(PC_ERR_FORMAT,
                   "not an image: the first bytes are none of JPEG, PNG, WebP, GIF, BMP, PPM");
}

static pc_status decode_upright(pc_image *out, const void *bytes, size_t size, bool orient,
                                bool drop_alpha)
{
    *out = (pc_image){0};
    pc_status st = decode_any(out, bytes, size, drop_alpha);
    if (!st && orient) st = pc_image_orient(out, pc_exif_orientation(bytes, size));
    if (st) pc_image_close(out);
    return st;
}

pc_status pc_image_decode(pc_image *out, const void *bytes, size_t size, bool orient)
{
    return decode_upright(out, bytes, size, orient, false);
}

static pc_status open_file(pc_image *out, const char *path, bool orient, bool drop_alpha)
{
    char *bytes = NULL;
    size_t size = 0;
    *out = (pc_image){0};
    pc_status st = pc_file_read(&bytes, &size, path, FILE_MAX);
    if (st) return pc_context(st, "image");
    st = decode_upright(out, bytes, size, orient, drop_alpha);
    free(bytes);
    return pc_context(st, "image '%s'", path);
}

pc_status pc_image_open(pc_image *out, const char *path, bool orient)
{
    return open_file(out, path, orient, false);
}

pc_status pc_image_open_as(pc_image *out, const char *path, const pc_image_config *c)
{
    return open_file(out, path, c->orient, c->drop_alpha);
}
