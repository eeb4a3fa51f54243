/*
 * picture.c - see picture.h.
 */
#include "data/images/picture.h"

#include <stdlib.h>
#include <string.h>

#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

// Bytes as they come, three at a time into four digits.
typedef struct sink {
    FILE *out;
    unsigned char rest[3];
    int held;
} sink;

static void write_group(sink *s)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned bits = (unsigned)s->rest[0] << 16 | (unsigned)s->rest[1] << 8 | s->rest[2];
    for (int i = 0; i < 4; i++)
        fputc(i <= s->held ? digit[bits >> (18 - 6 * i) & 63U] : '=', s->out);
    memset(s->rest, 0, sizeof s->rest);
    s->held = 0;
}

static void take(void *arg, void *data, int size)
{
    sink *s = arg;
    const unsigned char *p = data;
    for (int i = 0; i < size; i++) {
        s->rest[s->held++] = p[i];
        if (s->held == 3) write_group(s);
    }
}

pc_status pc_picture_html(FILE *out, const char *path, int64_t side, bool orient)
{
    pc_image image, small = {0};
    pc_status st = pc_image_open(&image, path, orient);
    if (st) return st;

    const pc_image *shown = &image;
    const int64_t longest = image.width > image.height ? image.width : image.height;
    if (longest > side) {
        const int64_t w = (image.width * side + longest - 1) / longest;
        const int64_t h = (image.height * side + longest - 1) / longest;
        st = pc_image_resize(&small, &image, w, h, PC_FILTER_BICUBIC);
        shown = &small;
    }
    if (!st) {
        sink s = {.out = out};
        fputs("<img alt=\"\" src=\"data:image/png;base64,", out);
        if (!stbi_write_png_to_func(take, &s, (int)shown->width, (int)shown->height, 3, shown->rgb,
                                    (int)(3 * shown->width)))
            st = pc_fail(PC_ERR_MEMORY, "picture of '%s'", path);
        if (s.held) write_group(&s);
        fputs("\">", out);
    }
    pc_image_close(&small);
    pc_image_close(&image);
    return st;
}

void pc_html_text(FILE *out, const char *text)
{
    for (; *text; text++) switch (*text) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '"': fputs("&quot;", out); break;
        case '\'': fputs("&#39;", out); break;
        default: fputc(*text, out);
        }
}
