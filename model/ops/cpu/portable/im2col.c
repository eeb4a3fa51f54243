/*
 * im2col.c - a convolution's input as rows, so that the convolution is a linear map (portable kernels).
 *
 *   forward    cols[(b,oy,ox), (c,ky,kx)] = x[b, c, oy step + ky - pad, ox step + kx - pad], 0 outside
 *   backward   dx sums the places of dcols it was copied to        overwritten: an activation
 *
 * Shapes: x planes (B,C,H,W) or, channels_last, rows (B*H*W,C), which may be strided; cols
 * (B*out_h*out_w, C*K*K). Backward gathers line by line of the input, kernel rows in order, so the
 * threads share out the lines and no two write the same place.
 */
#include <string.h>

#include "model/ops/cpu/portable.h"

typedef struct im2col_job {
    pc_tensor cols, x;
    const pc_conv *conv;
} im2col_job;

static void check(const im2col_job *j)
{
    const pc_conv *v = j->conv;
    PC_SAME("im2col: rows of cols and places", j->cols.dim[0], v->B * v->out_h * v->out_w);
    PC_SAME("im2col: columns", j->cols.dim[1], v->C * v->kernel * v->kernel);
    PC_SAME("im2col: rows of x", j->x.dim[0], v->channels_last ? v->B * v->H * v->W : v->B);
    PC_SAME("im2col: out_h", v->out_h, (v->H + 2 * v->pad - v->kernel) / v->step + 1);
    PC_SAME("im2col: out_w", v->out_w, (v->W + 2 * v->pad - v->kernel) / v->step + 1);
}

// Channel 0 of place (y,x) of image b.
static real *place(const im2col_job *j, int64_t b, int64_t y, int64_t x)
{
    const pc_conv *v = j->conv;
    return v->channels_last ? pc_row(j->x, (b * v->H + y) * v->W + x)
                            : pc_row(j->x, b) + y * v->W + x;
}

static void im2col_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const im2col_job *j = arg;
    const pc_conv *v = j->conv;
    const int64_t K = v->kernel, apart = v->channels_last ? 1 : v->H * v->W;
    const int64_t pitch = v->channels_last ? j->x.stride : 1;
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const int64_t b = n / (v->out_h * v->out_w), at = n % (v->out_h * v->out_w);
        const int64_t top = at / v->out_w * v->step - v->pad;
        const int64_t left = at % v->out_w * v->step - v->pad;
        // Kernel columns [first, last) lie inside the image.
        const int64_t first = pc_max64(0, -left), last = pc_min64(K, v->W - left);
        real *row = pc_row(j->cols, n);
        if (first > 0 || last < K || top < 0 || top + K > v->H)
            memset(row, 0, (size_t)(v->C * K * K) * sizeof *row);
        for (int64_t ky = pc_max64(0, -top); ky < pc_min64(K, v->H - top); ky++) {
            if (first >= last) break;
            const real *line = place(j, b, top + ky, left + first);
            for (int64_t c = 0; c < v->C; c++) {
                const real *from = line + c * apart;
                real *to = row + (c * K + ky) * K + first;
                if (pitch == 1)
                    memcpy(to, from, (size_t)(last - first) * sizeof *to);
                else
                    for (int64_t k = 0; k < last - first; k++) to[k] = from[k * pitch];
            }
        }
    }
}

void R(im2col_forward)(pc_ctx *ctx, pc_tensor cols, pc_tensor x, const pc_conv *conv)
{
    im2col_job job = {cols, x, conv};
    check(&job);
    pc_parallel(ctx->pool, cols.dim[0], pc_row_grain(cols.dim[1]), im2col_rows, &job);
}

// Adds what output line oy, met by kernel row ky, copied from this input line.
static void add_line(const im2col_job *j, real *line, int64_t b, int64_t oy, int64_t ky)
{
    const pc_conv *v = j->conv;
    const int64_t K = v->kernel, apart = v->channels_last ? 1 : v->H * v->W;
    const int64_t pitch = v->channels_last ? j->x.stride : 1;
    for (int64_t ox = 0; ox < v->out_w; ox++) {
        const real *row = pc_row(j->cols, (b * v->out_h + oy) * v->out_w + ox);
        const int64_t left = ox * v->step - v->pad;
        const int64_t first = pc_max64(0, -left), last = pc_min64(K, v->W - left);
        for (int64_t c = 0; c < v->C; c++) {
            const real *from = row + (c * K + ky) * K;
            for (int64_t k = first; k < last; k++) line[c * apart + (left + k) * pitch] += from[k];
        }
    }
}

static void im2col_lines_backward(void *arg, int64_t begin, int64_t end, int worker)
{
    const im2col_job *j = arg;
    const pc_conv *v = j->conv;
    (void)worker;
    for (int64_t at = begin; at < end; at++) {
        const int64_t b = at / v->H, y = at % v->H;
        if (v->channels_last)
            for (int64_t x = 0; x < v->W; x++)
                memset(place(j, b, y, x), 0, (size_t)v->C * sizeof(real));
        else
            for (int64_t c = 0; c < v->C; c++)
                memset(place(j, b, y, 0) + c * v->H * v->W, 0, (size_t)v->W * sizeof(real));
        for (int64_t ky = 0; ky < v->kernel; ky++) {
            const int64_t top = y + v->pad - ky; // oy step
            if (top >= 0 && top % v->step == 0 && top / v->step < v->out_h)
                add_line(j, place(j, b, y, 0), b, top / v->step, ky);
        }
    }
}

void R(im2col_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dcols, const pc_conv *conv)
{
    im2col_job job = {dcols, dx, conv};
    check(&job);
    const int64_t per_line = conv->W * conv->C * conv->kernel;
    pc_parallel(ctx->pool, conv->B * conv->H, pc_row_grain(per_line), im2col_lines_backward, &job);
}
