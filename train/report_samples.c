/*
 * report_samples.c - validation images with what the model makes of them.
 *
 * Two towers: the caption nearest to each picture. A vlm: report_answers.c.
 */
#include "train/report.h"

#include <stdlib.h>
#include <string.h>

// ---- two towers: captions found ------------------------------------------------------------------

static double dot(pc_tensor A, int64_t i, pc_tensor B, int64_t j)
{
    double sum = 0.0;
    for (int64_t k = 0; k < A.dim[1]; k++) sum += (double)pc_f32(A, i)[k] * (double)pc_f32(B, j)[k];
    return sum;
}

// The caption nearest to image row i, and the rank (from 1) of its own.
static int64_t nearest(pc_tensor U, pc_tensor V, int64_t i, int64_t *rank)
{
    const double own = dot(U, i, V, i);
    int64_t best = 0;
    double most = -2.0;
    *rank = 1;
    for (int64_t j = 0; j < V.dim[0]; j++) {
        const double s = dot(U, i, V, j);
        if (s > most) most = s, best = j;
        if (s > own) ++*rank;
    }
    return best;
}

static pc_status caption_cards(FILE *out, run *u, int64_t count, pc_tensor U, pc_tensor V,
                               const int64_t *row_sample)
{
    pc_status st = PC_OK;
    const int64_t rows = U.dim[0];
    for (int64_t k = 0; k < count && k < rows && !st; k++) {
        const int64_t i = k * rows / (count < rows ? count : rows);
        int64_t rank;
        const int64_t found = nearest(U, V, i, &rank);
        const pc_sample *own = &u->shown.samples[row_sample[i]];
        const pc_sample *other = &u->shown.samples[row_sample[found]];
        fprintf(out, "<div class=sample>");
        if ((st = pc_picture_html(out, own->image, REPORT_SIDE, u->image.orient))) break;
        fprintf(out, "<dl><dt>its caption</dt><dd>");
        pc_html_text(out, own->captions[0]);
        fprintf(out, "</dd><dt>nearest of %lld</dt><dd class=%s>", (long long)rows,
                rank == 1 ? "ok" : "no");
        pc_html_text(out, other->captions[0]);
        fprintf(out, "</dd><dd><small>its own is number %lld</small></dd></dl></div>\n",
                (long long)rank);
    }
    return st;
}

static pc_status tower_samples(FILE *out, run *u, int64_t count)
{
    const int64_t n = u->shown.count, E = u->model->config.clip.text.E;
    float *numbers = malloc((size_t)(2 * n * E + 1) * sizeof *numbers);
    int64_t *row_sample = malloc((size_t)(n + 1) * sizeof *row_sample), rows = 0;
    double loss;
    if (!numbers || !row_sample) {
        free(numbers);
        free(row_sample);
        return pc_fail(PC_ERR_MEMORY, "report");
    }
    const pc_tensor U = pc_view2(numbers, PC_F32, n, E);
    const pc_tensor V = pc_view2(numbers + n * E, PC_F32, n, E);
    pc_status st = validation_embed(u, U, V, row_sample, &rows, &loss);
    if (!st)
        st = caption_cards(out, u, count, pc_rows(U, 0, rows), pc_rows(V, 0, rows), row_sample);
    free(numbers);
    free(row_sample);
    return st;
}

pc_status report_samples(FILE *out, run *u, int64_t count)
{
    fprintf(out, "<h2>Examples from validation</h2><div class=samples>\n");
    pc_status st = u->model->config.kind == PC_MODEL_CLIP ? tower_samples(out, u, count)
                                                          : report_answers(out, u, count);
    fprintf(out, "</div>\n");
    return pc_context(st, "examples");
}
