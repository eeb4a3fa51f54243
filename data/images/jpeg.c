/*
 * jpeg.c - JPEG through libjpeg-turbo, with its exact inverse DCT and smooth chroma upsampling: what PIL gives.
 *
 * A file that ends before its pixels do is an error, as is anything the library gives up on; other damage
 * it warns about is accepted, as PIL does. CMYK follows Adobe: stored inverted; converted as PIL converts.
 */
#include "data/images/decode.h"

#include <setjmp.h>
#include <stdio.h>
#include <jpeglib.h>
#include <jerror.h>

#define SCANS_MAX 1000 // of a progressive file: each costs a pass over the picture

typedef struct failure {
    struct jpeg_error_mgr base;
    jmp_buf back;
    bool cut; // the file ended early
    char text[JMSG_LENGTH_MAX];
} failure;

static void on_error(j_common_ptr c)
{
    failure *f = (failure *)c->err;
    f->base.format_message(c, f->text);
    longjmp(f->back, 1);
}

static void on_message(j_common_ptr c, int level)
{
    failure *f = (failure *)c->err;
    if (level < 0 && f->base.msg_code == JWRN_JPEG_EOF) f->cut = true;
}

static void on_output(j_common_ptr c)
{
    (void)c;
}

static void on_progress(j_common_ptr c)
{
    const j_decompress_ptr d = (j_decompress_ptr)c;
    if (d->input_scan_number > SCANS_MAX) {
        failure *f = (failure *)c->err;
        snprintf(f->text, sizeof f->text, "more than %d scans", SCANS_MAX);
        longjmp(f->back, 1);
    }
}

static uint8_t muldiv255(unsigned a, unsigned b)
{
    const unsigned t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

// Inverted CMYK to RGB: with K' = 255 - K stored, R = K' - (255 - C') K' / 255.
static void cmyk_row(uint8_t *rgb, const uint8_t *cmyk, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] =
                (uint8_t)(cmyk[4 * i + 3] - muldiv255(255u - cmyk[4 * i + c], cmyk[4 * i + 3]));
}

// Everything that may jump out; locals that matter after a jump live in the caller.
static pc_status decode(pc_image *out, struct jpeg_decompress_struct *d, const uint8_t *bytes,
                        size_t size)
{
    jpeg_create_decompress(d);
    jpeg_mem_src(d, bytes, (unsigned long)size);
    jpeg_read_header(d, TRUE);
    const bool cmyk = d->num_components == 4;
    d->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    d->dct_method = JDCT_ISLOW;
    pc_status st = pc_image_alloc(out, d->image_width, d->image_height);
    if (st) return st;
    jpeg_start_decompress(d);
    JSAMPARRAY line =
        d->mem->alloc_sarray((j_common_ptr)d, JPOOL_IMAGE, d->output_width * (cmyk ? 4 : 3), 1);
    while (d->output_scanline < d->output_height) {
        uint8_t *row = out->rgb + 3 * out->width * d->output_scanline;
        if (cmyk) {
            jpeg_read_scanlines(d, line, 1);
            cmyk_row(row, line[0], out->width);
        } else {
            jpeg_read_scanlines(d, &row, 1);
        }
    }
    return PC_OK;
}

pc_status pc_jpeg_decode(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha)
{
    (void)drop_alpha; // there is none
    struct jpeg_decompress_struct d = {0};
    struct jpeg_progress_mgr progress = {.progress_monitor = on_progress};
    failure f = {.cut = false};
    d.err = jpeg_std_error(&f.base);
    f.base.error_exit = on_error;
    f.base.emit_message = on_message;
    f.base.output_message = on_output;
    if (setjmp(f.back)) {
        jpeg_destroy_decompress(&d);
        if (f.cut) return pc_fail(PC_ERR_FORMAT, "JPEG: the file is cut short");
        return pc_fail(PC_ERR_FORMAT, "JPEG: %s", f.text);
    }
    d.progress = &progress;
    pc_status st = decode(out, &d, bytes, size);
    jpeg_destroy_decompress(&d);
    if (!st && f.cut) st = pc_fail(PC_ERR_FORMAT, "JPEG: the file is cut short");
    return st;
}
