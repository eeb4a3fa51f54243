/*
 * classification.c - see classification.h.
 */
#include "data/metrics/classification.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void pc_class_weight(float *w, const float *rows, int64_t n, int64_t E)
{
    double norm = 0.0;

    memset(w, 0, (size_t)E * sizeof *w);
    for (int64_t t = 0; t < n; t++)
        for (int64_t e = 0; e < E; e++) w[e] += rows[t * E + e];
    for (int64_t e = 0; e < E; e++) norm += (double)w[e] * (double)w[e];
    if (!(norm > 0.0)) return;
    const float inv = (float)(1.0 / sqrt(norm));
    for (int64_t e = 0; e < E; e++) w[e] *= inv;
}

void pc_top_classes(int64_t *out, const float *scores, int64_t C, int64_t k)
{
    for (int64_t i = 0; i < k; i++) {
        int64_t best = -1;
        for (int64_t c = 0; c < C; c++) {
            bool taken = false;
            for (int64_t j = 0; j < i; j++) taken = taken || out[j] == c;
            if (!taken && (best < 0 || scores[c] > scores[best])) best = c;
        }
        out[i] = best;
    }
}

pc_status pc_classification_score(pc_classification *out, const float *scores, const int64_t *truth,
                                  int64_t N, int64_t C)
{
    int64_t *seen = calloc((size_t)C + 1, sizeof *seen),
            *found = calloc((size_t)C + 1, sizeof *found);
    const int64_t k = C < 5 ? C : 5;
    int64_t one = 0, five = 0;

    *out = (pc_classification){.n = N, .classes = C};
    if (!seen || !found) {
        free(seen);
        free(found);
        return pc_fail(PC_ERR_MEMORY, "counts of %lld classes", (long long)C);
    }
    for (int64_t n = 0; n < N; n++) {
        int64_t top[5];
        pc_top_classes(top, scores + n * C, C, k);
        seen[truth[n]]++;
        one += top[0] == truth[n];
        found[truth[n]] += top[0] == truth[n];
        for (int64_t i = 0; i < k; i++) five += top[i] == truth[n];
    }
    for (int64_t c = 0; c < C; c++) {
        if (!seen[c]) continue;
        out->occurring++;
        out->class_recall += (double)found[c] / (double)seen[c];
    }
    if (out->occurring) out->class_recall /= (double)out->occurring;
    if (N) {
        out->top1 = (double)one / (double)N;
        out->top5 = (double)five / (double)N;
    }
    free(seen);
    free(found);
    return PC_OK;
}

void pc_wilson(double *low, double *high, int64_t k, int64_t n)
{
    const double z = 1.959963984540054;

    *low = 0.0;
    *high = 1.0;
    if (n < 1) return;
    const double N = (double)n, p = (double)k / N, zz = z * z;
    const double middle = p + zz / (2.0 * N);
    const double half = z * sqrt(p * (1.0 - p) / N + zz / (4.0 * N * N));
    *low = fmax(0.0, (middle - half) / (1.0 + zz / N));
    *high = fmin(1.0, (middle + half) / (1.0 + zz / N));
}
