/*
 * im2col_body.h - a convolution's input as rows (formulas: portable/im2col.c).
 *
 * Columns are ordered (channel, kernel place), rows of channels are not: between them lies a transposition,
 * done 8 channels by 8 places in registers. Vectors of 8 are all it takes, so avx2/ alone compiles this.
 *
 *   forward    channels last, kernels of 3 and more; planes, any kernel
 *   backward   channels last, kernel 3; sums run in the portable kernel's order and come out the same
 *
 * What is left goes on to the portable kernel.
 */
#include "model/ops/cpu/simd/simd.h"

enum { LANES = 8 };

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

// Where kernel place 0 of row n of cols lies in its image.
typedef struct corner {
    int64_t b, top, left;
} corner;

PC_INLINE corner corner_of(const pc_conv *v, int64_t n)
{
    const int64_t at = n % (v->out_h * v->out_w);
    return (corner){n / (v->out_h * v->out_w), at / v->out_w * v->step - v->pad,
                    at % v->out_w * v->step - v->pad};
}

// to[c apart + k] = from[k][c] for 8 k and 8 c.
PC_INLINE void transpose_8x8(float *to, int64_t apart, const float *const from[LANES])
{
    __m256 r[LANES], s[LANES];
    // Halves of channels: r[k] holds channels 0..3 of places k and k + 4, r[k + 4] channels 4..7.
    PC_UNROLL for (int k = 0; k < 4; k++)
    {
        r[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from[k])),
                                    _mm_loadu_ps(from[k + 4]), 1);
        r[k + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from[k] + 4)),
                                        _mm_loadu_ps(from[k + 4] + 4), 1);
    }
    PC_UNROLL for (int k = 0; k < LANES; k += 4)
    {
        s[k] = _mm256_unpacklo_ps(r[k], r[k + 1]);
        s[k + 1] = _mm256_unpackhi_ps(r[k], r[k + 1]);
        s[k + 2] = _mm256_unpacklo_ps(r[k + 2], r[k + 3]);
        s[k + 3] = _mm256_unpackhi_ps(r[k + 2], r[k + 3]);
    }
    PC_UNROLL for (int k = 0; k < LANES; k += 4)
    {
        float *four = to + k * apart;
        _mm256_storeu_ps(four, _mm256_shuffle_ps(s[k], s[k + 2], 0x44));
        _mm256_storeu_ps(four + apart, _mm256_shuffle_ps(s[k], s[k + 2], 0xee));
        _mm256_storeu_ps(four + 2 * apart, _mm256_shuffle_ps(s[k + 1], s[k + 3], 0x44));
        _mm256_storeu_ps(four + 3 * apart, _mm256_shuffle_ps(s[k + 1], s[k + 3], 0xee));
    }
}

// Rows of channels: every kernel place is a vector of C channels, or of zeros outside the image.
PC_INLINE void unfold_rows(const im2col_job *j, int64_t begin, int64_t end, int64_t K)
{
    static const float outside[LANES] = {0};
    const pc_conv *v = j->conv;
    const int64_t places = K * K, C = v->C;
    for (int64_t n = begin; n < end; n++) {
        const corner at = corner_of(v, n);
        const float *const origin = pc_row(j->x, at.b * v->H * v->W);
        float *row = pc_row(j->cols, n);
        for (int64_t k = 0; k < places;) {
            const int64_t count = places - k >= LANES ? LANES : 1;
            const float *from[LANES];
            bool inside[LANES];
            for (int64_t i = 0; i < count; i++) {
                const int64_t y = at.top + (k + i) / K, x = at.left + (k + i) % K;
                inside[i] = y >= 0 && y < v->H && x >= 0 && x < v->W;
                from[i] = inside[i] ? origin + (y * v->W + x) * j->x.stride : outside;
            }
            int64_t c = 0;
            if (count == LANES)
                for (; c + LANES <= C; c += LANES) {
                    transpose_8x8(row + c * places + k, places, from);
                    for (int i = 0; i < LANES; i++) from[i] += inside[i] ? LANES : 0;
                }
            for (int64_t i = 0; i < count; i++)
                for (int64_t rest = c; rest < C; rest++)
                    row[rest * places + k + i] = inside[i] ? from[i][rest - c] : 0.0f;
            k += count;
        }
    }
}

static void unfold_rows_3(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)worker;
    unfold_rows(arg, begin, end, 3);
}

static void unfold_rows_any(void *arg, int64_t begin, int64_t end, int worker)
{
    const im2col_job *j = arg;
    (void)worker;
    unfold_rows(j, begin, end, j->conv->kernel);
}

// Planes, kernel 3, wholly inside: copied by fours, ascending, each fourth put right by the next copy.
PC_INLINE void unfold_inside_3(float *row, const float *from, const pc_conv *v)
{
    for (int64_t c = 0; c < v->C; c++)
        for (int ky = 0; ky < 3; ky++, row += 3) {
            const float *line = from + (c * v->H + ky) * v->W;
            if (c == v->C - 1 && ky == 2) // the last: nothing may be read or written behind it
                memcpy(row, line, 3 * sizeof *row);
            else
                _mm_storeu_ps(row, _mm_loadu_ps(line));
        }
}

static void unfold_planes(void *arg, int64_t begin, int64_t end, int worker)
{
    const im2col_job *j = arg;
    const pc_conv *v = j->conv;
    const int64_t K = v->kernel;
    (void)worker;
    for (int64_t n = begin; n < end; n++) {
        const corner at = corner_of(v, n);
        // Kernel lines [low, high) and columns [first, last) lie inside the image.
        const int64_t low = pc_max64(0, -at.top), high = pc_min64(K, v->H - at.top);
        const int64_t first = pc_max64(0, -at.left), last = pc_min64(K, v->W - at.left);
        const bool whole = low == 0 && first == 0 && high == K && last == K;
        const float *from = (const float *)pc_row(j->x, at.b) + at.top * v->W + at.left;
        float *row = pc_row(j->cols, n);
        if (whole && K == 3) {
            unfold_inside_3(row, from, v);
            continue;
        }
        if (!whole) memset(row, 0, (size_t)(v->C * K * K) * sizeof *row);
        if (first >= last) continue;
        for (int64_t c = 0; c < v->C; c++)
            for (int64_t ky = low; ky < high; ky++)
                memcpy(row + (c * K + ky) * K + first, from + (c * v->H + ky) * v->W + first,
                       (size_t)(last - first) * sizeof *row);
    }
}

void S(im2col_forward)(pc_ctx *ctx, pc_tensor cols, pc_tensor x, const pc_conv *conv)
{
    im2col_job job = {cols, x, conv};
    check(&job);
    if (conv->channels_last && conv->kernel < 3) {
        im2col_forward_f32(ctx, cols, x, conv);
        return;
    }
    pc_parallel(ctx->pool, cols.dim[0], pc_row_grain(cols.dim[1]),
                !conv->channels_last ? unfold_planes
                : conv->kernel == 3  ? unfold_rows_3
                                     : unfold_rows_any,
                &job);
}

// to[k][c] += from[9 c + k] for the 3 kernel columns k and 8 channels c.
PC_INLINE void fold_8(float *const to[3], const float *from)
{
    __m256 r[4], s[4];
    // r[c] holds columns 0..2, and one too many, of channels c and c + 4. The last may end the row: what is
    // one too many comes before it there.
    PC_UNROLL for (int c = 0; c < 3; c++) r[c] =
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + 9 * c)),
                             _mm_loadu_ps(from + 9 * (c + 4)), 1);
    const __m128 last = _mm_loadu_ps(from + 9 * 7 - 1);
    r[3] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + 9 * 3)),
                                _mm_shuffle_ps(last, last, 0x39), 1);
    s[0] = _mm256_unpacklo_ps(r[0], r[1]);
    s[1] = _mm256_unpackhi_ps(r[0], r[1]);
    s[2] = _mm256_unpacklo_ps(r[2], r[3]);
    s[3] = _mm256_unpackhi_ps(r[2], r[3]);
    const __m256 column[3] = {_mm256_shuffle_ps(s[0], s[2], 0x44),
                              _mm256_shuffle_ps(s[0], s[2], 0xee),
                              _mm256_shuffle_ps(s[1], s[3], 0x44)};
    PC_UNROLL for (int k = 0; k < 3; k++)
        _mm256_storeu_ps(to[k], _mm256_add_ps(_mm256_loadu_ps(to[k]), column[k]));
}

// Adds what output line oy, met by kernel row ky, copied from this input line.
static void fold_line(const im2col_job *j, float *line, int64_t b, int64_t oy, int64_t ky)
{
    const pc_conv *v = j->conv;
    const int64_t C = v->C;
    for (int64_t ox = 0; ox < v->out_w; ox++) {
        const float *from = (const float *)pc_row(j->cols, (b * v->out_h + oy) * v->out_w + ox);
        const int64_t left = ox * v->step - v->pad;
        float dump[LANES] = {0}; // what came from outside goes nowhere
        float *to[3];
        bool inside[3];
        for (int64_t k = 0; k < 3; k++) {
            inside[k] = left + k >= 0 && left + k < v->W;
            to[k] = inside[k] ? line + (left + k) * j->x.stride : dump;
        }
        from += 3 * ky;
        int64_t c = 0;
        for (; c + LANES <= C; c += LANES) {
            fold_8(to, from + 9 * c);
            for (int k = 0; k < 3; k++) to[k] += inside[k] ? LANES : 0;
        }
        for (int64_t k = 0; k < 3; k++)
            for (int64_t rest = c; inside[k] && rest < C; rest++)
                to[k][rest - c] += from[9 * rest + k];
    }
}

static void fold_lines(void *arg, int64_t begin, int64_t end, int worker)
{
    const im2col_job *j = arg;
    const pc_conv *v = j->conv;
    (void)worker;
    for (int64_t at = begin; at < end; at++) {
        const int64_t b = at / v->H, y = at % v->H;
        float *line = pc_row(j->x, at * v->W);
        for (int64_t x = 0; x < v->W; x++)
            memset(line + x * j->x.stride, 0, (size_t)v->C * sizeof *line);
        for (int64_t ky = 0; ky < 3; ky++) {
            const int64_t top = y + v->pad - ky; // oy step
            if (top >= 0 && top % v->step == 0 && top / v->step < v->out_h)
                fold_line(j, line, b, top / v->step, ky);
        }
    }
}

void S(im2col_backward)(pc_ctx *ctx, pc_tensor dx, pc_tensor dcols, const pc_conv *conv)
{
    im2col_job job = {dcols, dx, conv};
    check(&job);
    if (!conv->channels_last || conv->kernel != 3) {
        im2col_backward_f32(ctx, dx, dcols, conv);
        return;
    }
    pc_parallel(ctx->pool, conv->B * conv->H, pc_row_grain(conv->W * conv->C * 3), fold_lines,
                &job);
}
