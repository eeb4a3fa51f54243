/*
 * logits.c - `percept logits`: the forward pass on given tensors, for comparison with other implementations.
 *
 *   vlm          logits (B,T,V); loss (1) where labels are given; image_embeds and video_embeds (rows,C), the features
 *                of all images and of all films, where the model sees grids of patches
 *   two towers   image_embeds (B,E), text_embeds (B,E), logits_per_image, logits_per_text, loss (1)
 *
 * --taps adds every activation the layers name, rows of all samples one after the other.
 */
#include "checkpoints/bundle.h"
#include "checkpoints/given.h"
#include "infer/infer.h"
#include "model/core/cli.h"
#include "model/layers/place.h"
#include "model/layers/taps.h"
#include "model/networks/placement.h"
#include "model/networks/runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_FIXED = 9 };

typedef struct job {
    pc_model *model;
    pc_given given;
    // Results, malloc'ed; NULL where there is none.
    float *logits, *image_embeds, *text_embeds, *per_image, *per_text;
    float *film_embeds;
    int64_t image_rows, film_rows; // of a model that sees grids
    float loss;
    bool has_loss;
} job;

static void copy_out(pc_ctx *ctx, float *out, pc_tensor x)
{
    x = pc_fetch(ctx, x);
    if (ctx->act->dry) return;
    for (int64_t n = 0; n < x.dim[0]; n++)
        memcpy(out + n * pc_row_len(x), pc_f32(x, n), (size_t)pc_row_len(x) * sizeof *out);
}

// S = exp(t) u v^T (+ b), both ways round.
static void similarities(pc_ctx *ctx, job *j, const pc_clip *l, pc_tensor u, pc_tensor v)
{
    const int64_t I = u.dim[0], T = v.dim[0];
    const pc_tensor S = pc_alloc_shared(ctx->act, PC_F32, I, T);

    ctx->ops->linear_forward(ctx, S, u, v, PC_NONE, PC_NONE);
    const pc_tensor by = pc_fetch(ctx, l->logit_scale.w), add = pc_fetch(ctx, l->logit_bias.w);
    if (ctx->act->dry) return;
    pc_wait(ctx);
    const float scale = expf(*pc_f32(by, 0));
    const float bias = pc_present(add) ? *pc_f32(add, 0) : 0.0F;
    for (int64_t i = 0; i < I; i++)
        for (int64_t t = 0; t < T; t++) {
            const float s = *(pc_f32(S, i) + t) * scale + bias;
            j->per_image[i * T + t] = s;
            j->per_text[t * I + i] = s;
        }
}

static void clip_pass(pc_ctx *ctx, void *arg)
{
    job *j = arg;
    const pc_clip *l = &j->model->clip;
    const pc_given *g = &j->given;
    pc_clip_kept kept = {0};
    pc_tensor u = PC_NONE, v = PC_NONE;

    if (pc_present(g->pixels)) {
        u = pc_clip_image_forward(ctx, &kept, l, g->pixels);
        copy_out(ctx, j->image_embeds, u);
    }
    if (g->has_text) {
        v = pc_clip_text_forward(ctx, &kept, l, &g->text);
        copy_out(ctx, j->text_embeds, v);
    }
    if (!pc_present(u) || !pc_present(v)) return;
    similarities(ctx, j, l, u, v);
    if (!j->has_loss) return;
    const double loss = pc_clip_loss_forward(ctx, l, u, v);
    j->loss = (float)loss;
}

// Features of pictures, those of films apart from those of images: `film` says which is which, NULL for films alone.
static void features_out(pc_ctx *ctx, job *j, const pc_pictures *pictures, const uint8_t *film)
{
    pc_vlm_kept kept = {0};
    pc_taps *const taps = ctx->taps;
    if (!pictures->count) return;
    const size_t mark = pc_arena_mark(ctx->act);
    ctx->taps = NULL; // the whole pass comes by here again
    const pc_tensor y = pc_vlm_features_forward(ctx, &kept, &j->model->vlm, pictures);
    ctx->taps = taps;
    float *to[] = {j->image_embeds, j->film_embeds};
    for (int64_t i = 0, row = 0; i < pictures->count; i++) {
        const int64_t rows = pictures->geometry[i].rows;
        float **out = &to[film ? film[i] : 1];
        copy_out(ctx, *out, pc_rows(y, row, row + rows));
        *out += rows * y.dim[1];
        row += rows;
    }
    pc_arena_release(ctx->act, mark);
}

static void vlm_pass(pc_ctx *ctx, void *arg)
{
    job *j = arg;
    const pc_vlm *l = &j->model->vlm;
    const pc_vlm_batch *b = &j->given.vlm;
    const int64_t N = b->N, V = l->config.decoder.V, piece = 256;
    pc_vlm_kept kept = {0};
    if (l->config.visual == PC_VISUAL_GRID) {
        features_out(ctx, j, &b->pictures, j->given.film);
        features_out(ctx, j, &j->given.apart, NULL);
    }
    const pc_tensor normed = pc_vlm_forward(ctx, &kept, l, b, NULL);

    for (int64_t n = 0; n < N; n += piece) {
        const int64_t end = n + piece < N ? n + piece : N;
        const size_t mark = pc_arena_mark(ctx->act);
        const pc_tensor logits = pc_alloc2(ctx->act, PC_F32, end - n, V);
        pc_decoder_logits(ctx, logits, &l->decoder, pc_rows(normed, n, end));
        copy_out(ctx, j->logits + n * V, logits);
        pc_arena_release(ctx->act, mark);
    }
    if (!j->has_loss) return;
    const pc_tensor nll = pc_alloc_shared(ctx->act, PC_F32, N, 1);
    pc_vlm_loss_forward(ctx, nll, l, &kept, b);
    pc_wait(ctx);
    if (ctx->act->dry) return;
    double sum = 0.0;
    for (int64_t n = 0; n < N; n++) sum += (double)((const float *)nll.data)[n];
    j->loss = (float)(sum / (double)b->supervised);
}

static pc_status room_for(float **out, int64_t n, const char *what)
{
    *out = malloc((size_t)(n > 0 ? n : 1) * sizeof **out);
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "%s: %lld numbers", what, (long long)n);
}

static pc_status prepare_features(job *j)
{
    const pc_given *g = &j->given;
    const int64_t C = j->model->config.vlm.decoder.C;
    pc_status st;
    for (int64_t i = 0; i < g->images; i++)
        *(g->film[i] ? &j->film_rows : &j->image_rows) += g->geometry[i].rows;
    for (int64_t i = 0; i < g->apart.count; i++) j->film_rows += g->apart.geometry[i].rows;
    if ((j->image_rows && (st = room_for(&j->image_embeds, j->image_rows * C, "image_embeds"))) ||
        (j->film_rows && (st = room_for(&j->film_embeds, j->film_rows * C, "video_embeds"))))
        return st;
    return PC_OK;
}

static pc_status prepare(job *j)
{
    const pc_model_config *c = &j->model->config;
    const pc_given *g = &j->given;
    pc_status st;

    if (c->kind == PC_MODEL_VLM) {
        j->has_loss = g->has_labels;
        if (j->has_loss && !g->vlm.supervised)
            return pc_fail(PC_ERR_INPUT, "tensor 'labels': no token of it is supervised");
        if ((st = room_for(&j->logits, g->vlm.N * c->vlm.decoder.V, "logits"))) return st;
        return c->vlm.visual == PC_VISUAL_GRID ? prepare_features(j) : PC_OK;
    }
    const int64_t I = g->images, T = g->B, E = c->clip.text.E;
    j->has_loss = I > 0 && I == T;
    if ((I && (st = room_for(&j->image_embeds, I * E, "image_embeds"))) ||
        (T && (st = room_for(&j->text_embeds, T * E, "text_embeds"))) ||
        (I && T && (st = room_for(&j->per_image, I * T, "logits_per_image"))) ||
        (I && T && (st = room_for(&j->per_text, I * T, "logits_per_text"))))
        return st;
    return PC_OK;
}

static void job_close(job *j)
{
    free(j->logits);
    free(j->image_embeds);
    free(j->film_embeds);
    free(j->text_embeds);
    free(j->per_image);
    free(j->per_text);
    pc_given_close(&j->given);
}

static int out_add(pc_st_out *list, int n, const char *name, const void *data, int rank,
                   const int64_t *dim)
{
    if (!data) return n;
    pc_st_out *o = &list[n];
    *o = (pc_st_out){.dtype = PC_F32, .rank = rank, .data = data};
    snprintf(o->name, sizeof o->name, "%s", name);
    for (int i = 0; i < rank; i++) o->dim[i] = dim[i];
    return n + 1;
}
#define DIMS(...)                                                                                  \
    (const int64_t[])                                                                              \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static pc_status write_out(const job *j, const pc_taps *taps, const char *path)
{
    const pc_model_config *c = &j->model->config;
    const pc_given *g = &j->given;
    const int64_t E = c->clip.text.E;
    pc_st_out *list = calloc((size_t)(OUT_FIXED + taps->count), sizeof *list);
    int n = 0;

    if (!list) return pc_fail(PC_ERR_MEMORY, "list of results");
    n = out_add(list, n, "logits", j->logits, 3, DIMS(g->B, g->T, c->vlm.decoder.V));
    if (c->kind == PC_MODEL_VLM) {
        const int64_t C = c->vlm.decoder.C;
        n = out_add(list, n, "image_embeds", j->image_embeds, 2, DIMS(j->image_rows, C));
        n = out_add(list, n, "video_embeds", j->film_embeds, 2, DIMS(j->film_rows, C));
    } else {
        n = out_add(list, n, "image_embeds", j->image_embeds, 2, DIMS(g->images, E));
    }
    n = out_add(list, n, "text_embeds", j->text_embeds, 2, DIMS(g->B, E));
    n = out_add(list, n, "logits_per_image", j->per_image, 2, DIMS(g->images, g->B));
    n = out_add(list, n, "logits_per_text", j->per_text, 2, DIMS(g->B, g->images));
    n = out_add(list, n, "loss", j->has_loss ? &j->loss : NULL, 1, DIMS(1));
    for (int i = 0; i < taps->count; i++) {
        const pc_tap *t = &taps->list[i];
        if (t->value.dtype == PC_F32)
            n = out_add(list, n, t->name, t->value.data, t->value.rank, t->value.dim);
    }
    const pc_status st = pc_safetensors_write(path, list, n, NULL);
    free(list);
    return st;
}

static pc_status run(const char *model_path, const char *mmproj, const char *adapter,
                     const char *inputs, const char *out, bool taps_wanted, int64_t threads)
{
    pc_bundle bundle = {0};
    pc_safetensors *file = NULL;
    pc_runner runner = {0};
    pc_taps taps = {0};
    pc_placement placement = {0};
    job j = {.model = &bundle.model};
    pc_status st;

    if ((st = pc_runner_open(&runner, (int)threads, NULL)) ||
        (st = pc_bundle_open_mapped(&bundle, model_path, mmproj)) ||
        (st = pc_bundle_adapt(&bundle, adapter)) || (st = pc_safetensors_open(&file, inputs)))
        goto done;
    if ((st = pc_given_open(&j.given, file, &bundle.model.config, "", -1)) || (st = prepare(&j))) {
        st = pc_context(st, "inputs '%s'", inputs);
        goto done;
    }
    if ((st = pc_placement_open(&placement, &bundle.model, &runner.backend))) goto done;
    if (taps_wanted) runner.ctx.taps = &taps;
    if ((st = pc_runner_run(&runner, j.logits ? vlm_pass : clip_pass, &j)) ||
        (st = write_out(&j, &taps, out)))
        goto done;
    if (j.has_loss) printf("loss %.7g\n", (double)j.loss);
done:
    pc_taps_close(&taps);
    job_close(&j);
    pc_placement_close(&placement);
    pc_runner_close(&runner);
    pc_safetensors_close(file);
    pc_bundle_close(&bundle);
    return st;
}

pc_status logits_main(int argc, char **argv)
{
    const char *adapter = NULL, *mmproj = NULL, *inputs = NULL, *out = NULL;
    bool taps = false;
    int64_t threads = 0;
    const pc_cli_flag flags[] = {
        {"inputs", PC_CLI_STRING, &inputs, "FILE",
         "safetensors with input_ids, attention_mask, labels, pixel_values", 0, 0, NULL},
        {"adapter", PC_CLI_STRING, &adapter, "DIR", "PEFT folder: its adapters on the model", 0, 0,
         NULL},
        {"mmproj", PC_CLI_STRING, &mmproj, "FILE",
         "eyes of a .gguf, where they are not the mmproj beside it", 0, 0, NULL},
        {"out", PC_CLI_STRING, &out, "FILE", "safetensors to write", 0, 0, NULL},
        {"taps", PC_CLI_BOOL, &taps, NULL, "add every named activation", 0, 0, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads; as many as processors unless given", 0,
         4096, NULL},
    };
    const pc_cli cli = {
        .command = "percept logits",
        .usage = "MODEL",
        .about = "The forward pass on given tensors. Writes `logits` (and `loss` where `labels` "
                 "are given), "
                 "or, for a two-tower model, `image_embeds`, `text_embeds`, `logits_per_image`, "
                 "`logits_per_text` and `loss`. Names and shapes are those of transformers; padded "
                 "places are kept.",
        .flags = flags,
        .flag_count = (int)(sizeof flags / sizeof flags[0]),
        .min_args = 1,
        .max_args = 1,
        .examples =
            (const char *const[]){
                "percept logits llava-dir --inputs inputs.safetensors --out outputs.safetensors",
                "percept logits model.h5 --inputs in.safetensors --out out.safetensors --taps",
                NULL},
    };
    char **args;
    int n;
    const pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);

    if (st || !args) return st;
    if (!inputs || !out)
        return pc_fail(PC_ERR_USAGE, "percept logits: --%s FILE is needed",
                       inputs ? "out" : "inputs");
    return run(args[0], mmproj, adapter, inputs, out, taps, threads);
}
