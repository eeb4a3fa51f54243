/*
 * retrieval.c - see retrieval.h.
 */
#include "data/metrics/retrieval.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static pc_status summary(pc_recall *out, const int64_t *rank, int64_t n)
{
    int64_t *sorted = malloc((size_t)(n + 1) * sizeof *sorted);
    int64_t k1 = 0, k5 = 0, k10 = 0;
    double sum = 0.0;

    if (!sorted) return pc_fail(PC_ERR_MEMORY, "ranks of %lld queries", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        k1 += rank[i] <= 1;
        k5 += rank[i] <= 5;
        k10 += rank[i] <= 10;
        sum += (double)rank[i];
        sorted[i] = rank[i];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    out->r1 = (double)k1 / (double)n;
    out->r5 = (double)k5 / (double)n;
    out->r10 = (double)k10 / (double)n;
    out->mean = sum / (double)n;
    out->median = 0.5 * (double)(sorted[(n - 1) / 2] + sorted[n / 2]);
    out->queries = n;
    free(sorted);
    return PC_OK;
}

// Candidate c comes before candidate p.
static bool before(const float *S, int64_t stride, int64_t c, int64_t p)
{
    const float x = S[c * stride], y = S[p * stride];
    return x > y || (x == y && c < p);
}

pc_status pc_retrieval_score(pc_retrieval *out, const float *S, int64_t I, int64_t T,
                             const int64_t *owner, int64_t *ranks_image, int64_t *ranks_text)
{
    int64_t *image = malloc((size_t)(I + 1) * sizeof *image);
    int64_t *text = malloc((size_t)(T + 1) * sizeof *text);
    int64_t *captions = calloc((size_t)I + 1, sizeof *captions);
    pc_status st = PC_OK;

    *out = (pc_retrieval){0};
    if (!image || !text || !captions) {
        st = pc_fail(PC_ERR_MEMORY, "ranks of %lld images", (long long)I);
        goto out;
    }
    for (int64_t n = 0; n < I * T; n++)
        if (!isfinite(S[n])) {
            st = pc_fail(PC_ERR_NUMERIC, "similarity of image %lld and caption %lld is not finite",
                         (long long)(n / T), (long long)(n % T));
            goto out;
        }
    for (int64_t t = 0; t < T; t++) captions[owner[t]]++;
    for (int64_t i = 0; i < I; i++) {
        int64_t best = -1, rank = 1;
        for (int64_t t = 0; t < T; t++)
            if (owner[t] == i && (best < 0 || S[i * T + t] > S[i * T + best])) best = t;
        if (best < 0) {
            st = pc_fail(PC_ERR_INPUT, "image %lld has no caption", (long long)i);
            goto out;
        }
        for (int64_t t = 0; t < T; t++) rank += before(S + i * T, 1, t, best);
        image[i] = rank;
        out->image_to_text.chance1 += (double)captions[i] / (double)T / (double)I;
    }
    for (int64_t t = 0; t < T; t++) {
        int64_t rank = 1;
        for (int64_t i = 0; i < I; i++) rank += before(S + t, T, i, owner[t]);
        text[t] = rank;
    }
    if (I < 1 || T < 1) {
        st = pc_fail(PC_ERR_INPUT, "%lld images and %lld captions: nothing to rank", (long long)I,
                     (long long)T);
        goto out;
    }
    if ((st = summary(&out->image_to_text, image, I)) ||
        (st = summary(&out->text_to_image, text, T)))
        goto out;
    out->image_to_text.candidates = T;
    out->text_to_image.candidates = I;
    out->text_to_image.chance1 = 1.0 / (double)I;
    for (int64_t i = 0; ranks_image && i < I; i++) ranks_image[i] = image[i];
    for (int64_t t = 0; ranks_text && t < T; t++) ranks_text[t] = text[t];
out:
    free(image);
    free(text);
    free(captions);
    return st;
}
