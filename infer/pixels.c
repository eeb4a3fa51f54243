/*
 * pixels.c - image files into what the model sees, on all threads.
 */
#include "infer/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pc_status answer_pixels(float *out, const pc_image_config *c, const char *path)
{
    pc_image im;
    if (!*path) { // the mean colour is zero once it is subtracted
        memset(out, 0, (size_t)(3 * c->size * c->size) * sizeof *out);
        return PC_OK;
    }
    pc_status st = pc_image_open_as(&im, path, c);

    if (st) return st;
    st = pc_image_preprocess(out, &im, c);
    pc_image_close(&im);
    return pc_context(st, "image '%s'", path);
}

typedef struct job {
    float *out;
    const pc_image_config *config;
    const char *const *paths;
    pc_status *status; // (n)
    char (*message)[512];
} job;

static void task(void *arg, int64_t begin, int64_t end, int worker)
{
    job *j = arg;
    const int64_t S = j->config->size;

    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        j->status[i] = answer_pixels(j->out + i * 3 * S * S, j->config, j->paths[i]);
        if (j->status[i]) snprintf(j->message[i], sizeof j->message[i], "%s", pc_error_text());
    }
}

pc_status answer_pixels_all(float *out, const pc_image_config *c, const char *const *paths,
                            int64_t n, pc_pool *pool)
{
    job j = {.out = out, .config = c, .paths = paths};
    pc_status st = PC_OK;

    j.status = calloc((size_t)n + 1, sizeof *j.status);
    j.message = calloc((size_t)n + 1, sizeof *j.message);
    if (!j.status || !j.message) {
        st = pc_fail(PC_ERR_MEMORY, "%lld images", (long long)n);
    } else {
        pc_parallel(pool, n, 1, task, &j);
        for (int64_t i = 0; i < n && !st; i++)
            if ((st = j.status[i])) pc_error_set(j.message[i]);
    }
    free(j.status);
    free(j.message);
    return st;
}
