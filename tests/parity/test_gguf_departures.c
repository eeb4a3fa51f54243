/*
 * test_gguf_departures.c - what llama.cpp computes otherwise on a LLaVA pair, measured with our own layers: each departure
 * switched on by itself, relative change of features and logits (docs/formats.md quotes these figures).
 *
 * Seen (logits of the small models, relative): class token 0.7 to 0.8, GELU 2e-4, a block lost 0.5 to 0.8; pixels 0.3 to
 * 9 levels on average.
 *
 * Nothing switched on must give the reference's logits: that is what makes the other figures mean something.
 */
#include "checkpoints/bundle.h"
#include "model/networks/runner.h"
#include "tests/support/check.h"
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct departure {
    const char *name;
    bool
        class_last; // the class embedding behind the patches, positions 0 .. N-1 as they come, rows 1 .. N-1 taken
    bool tanh_gelu;     // in the projector
    int64_t lost;       // blocks of the tower that do not run
    double least, most; // of the change in logits
} departure;

typedef struct job {
    pc_model *model;
    const departure *how;
    pc_tensor pixels;
    const pc_vlm_batch *text;
    int64_t images;
    float *features, *logits; // out
} job;

static void copy_rows(float *out, pc_tensor x)
{
    for (int64_t n = 0; n < x.dim[0]; n++)
        memcpy(out + n * x.dim[1], pc_f32(x, n), (size_t)x.dim[1] * sizeof *out);
}

// Which row of an image's hidden states feature p is.
static int64_t source(const departure *how, int64_t p, int64_t P)
{
    if (!how->class_last) return p + 1;
    return p + 1 < P ? p + 2 : 0;
}

static void pass(pc_ctx *ctx, void *arg)
{
    job *j = arg;
    const pc_vlm *l = &j->model->vlm;
    const pc_vlm_config *c = &l->config;
    const int64_t N1 = pc_vision_tokens(&c->vision), P = N1 - 1, I = j->images, V = c->decoder.V;
    pc_vision_kept vision = {0};
    pc_projector_kept projector = {0};
    pc_decoder_kept decoder = {0};
    const bool dry = ctx->act->dry;

    const pc_tensor hidden = pc_vision_forward(ctx, &vision, &l->vision, j->pixels,
                                               pc_vlm_stop(c) - j->how->lost, false);
    const pc_tensor rows = pc_alloc2(ctx->act, PC_F32, I * P, c->vision.C);
    for (int64_t i = 0; i < I && !dry; i++)
        for (int64_t p = 0; p < P; p++)
            memcpy(pc_f32(rows, i * P + p), pc_f32(hidden, i * N1 + source(j->how, p, P)),
                   (size_t)c->vision.C * sizeof(float));
    const pc_tensor features = pc_projector_forward(ctx, &projector, &l->projector, rows);

    const pc_vlm_batch *b = j->text;
    const pc_tensor x = pc_alloc2(ctx->act, PC_F32, b->N, c->decoder.C);
    ctx->ops->embedding_forward(ctx, x, b->ids, l->decoder.tokens.w);
    for (int64_t n = 0, k = 0; n < b->N && !dry; n++)
        if (pc_i32(b->ids)[n] == c->image_id)
            memcpy(pc_f32(x, n), pc_f32(features, k++), (size_t)c->decoder.C * sizeof(float));
    const pc_seq seq = {.mask = b->mask, .pos = b->pos};
    const pc_tensor normed = pc_decoder_forward(ctx, &decoder, &l->decoder, x, &seq, NULL);
    const pc_tensor logits = pc_alloc2(ctx->act, PC_F32, b->N, V);
    pc_decoder_logits(ctx, logits, &l->decoder, normed);
    if (dry) return;
    copy_rows(j->features, features);
    copy_rows(j->logits, logits);
}

/* ---- the golden's inputs ---- */

typedef struct inputs {
    pc_arena memory;
    pc_vlm_batch batch;
    float *pixels, *want; // (images,3,S,S); logits of the rows that count
    int64_t images;
} inputs;

static float *read(const pc_safetensors *s, const char *name, int64_t dim[8])
{
    const pc_st_entry *e = pc_safetensors_find(s, name);
    int64_t n = 1;
    if (!e) abort();
    for (int i = 0; i < e->rank; i++) n *= dim[i] = e->dim[i];
    float *x = malloc((size_t)n * sizeof *x);
    if (!x || pc_st_floats(x, e, n)) abort();
    return x;
}

static void inputs_open(inputs *in, const char *dir, const pc_vlm_config *c)
{
    char path[1024];
    pc_safetensors *given = NULL, *outputs = NULL;
    int64_t dim[8], rows = 0;
    snprintf(path, sizeof path, "%s/inputs.safetensors", dir);
    if (pc_safetensors_open(&given, path)) abort();
    snprintf(path, sizeof path, "%s/outputs.safetensors", dir);
    if (pc_safetensors_open(&outputs, path)) abort();
    float *mask = read(given, "attention_mask", dim), *ids = read(given, "input_ids", dim);
    const int64_t B = dim[0], T = dim[1], V = c->decoder.V;
    in->want = read(outputs, "logits", dim);
    in->pixels = read(given, "pixel_values", dim);
    in->images = dim[0];

    int32_t *list = malloc((size_t)(B * T) * sizeof *list);
    pc_sequence *seqs = calloc((size_t)B, sizeof *seqs);
    if (!list || !seqs || pc_arena_open(&in->memory, "inputs", 1 << 24)) abort();
    for (int64_t b = 0; b < B; b++) {
        seqs[b].ids = list + b * T;
        for (int64_t t = 0; t < T; t++) {
            list[b * T + t] = (int32_t)ids[b * T + t];
            if (mask[b * T + t] == 0.0F) continue;
            seqs[b].length++;
            memmove(in->want + rows++ * V, in->want + (b * T + t) * V, (size_t)V * sizeof(float));
        }
    }
    pc_vlm_config text = *c; // the ids of images are rows like any others here
    text.vision.L = 0;
    if (pc_vlm_batch_build(&in->batch, &in->memory, &text, seqs, B, 0)) {
        printf("%s\n", pc_error_text());
        abort();
    }
    free(seqs);
    free(list);
    free(mask);
    free(ids);
    pc_safetensors_close(given);
    pc_safetensors_close(outputs);
}

static void inputs_close(inputs *in)
{
    free(in->pixels);
    free(in->want);
    pc_arena_close(&in->memory);
}

/* ---- measuring ---- */

// Patch i with position i, the class token with the last: what "behind the patches" means for a table.
static void shift_positions(pc_model *m)
{
    const pc_tensor w = m->vlm.vision.positions.w;
    const size_t row = (size_t)w.dim[1] * sizeof(float);
    float *last = malloc(row);
    if (!last) abort();
    memcpy(last, pc_f32(w, w.dim[0] - 1), row);
    for (int64_t n = w.dim[0] - 1; n > 0; n--) memcpy(pc_f32(w, n), pc_f32(w, n - 1), row);
    memcpy(pc_f32(w, 0), last, row);
    free(last);
}

static void measure(const char *dir, const departure *how, const float *pixels, float *features,
                    float *logits)
{
    pc_bundle b;
    inputs in = {0};
    pc_runner r = {0};
    if (pc_bundle_open(&b, dir) || pc_runner_open(&r, 1, NULL)) abort();
    inputs_open(&in, dir, &b.model.config.vlm);
    if (how->class_last) shift_positions(&b.model);
    if (how->tanh_gelu) b.model.vlm.projector.config.act = PC_ACT_GELU_TANH;
    const int64_t S = b.model.config.vlm.vision.image_size;
    job j = {.model = &b.model,
             .how = how,
             .text = &in.batch,
             .images = in.images,
             .pixels = pc_view4((void *)(uintptr_t)(pixels ? pixels : in.pixels), PC_F32, in.images,
                                3, S, S),
             .features = features,
             .logits = logits};
    if (pc_runner_run(&r, pass, &j)) abort();
    inputs_close(&in);
    pc_runner_close(&r);
    pc_bundle_close(&b);
}

static void table(const char *dir)
{
    static const departure list[] = {
        {"none", false, false, 0, 0.0, 1e-5},
        {"class token behind the patches", true, false, 0, 1e-2, 2.0},
        {"tanh form of GELU in the projector", false, true, 0, 1e-6, 1e-2},
        {"a block of the tower lost", false, false, 1, 1e-2, 2.0},
    };
    pc_bundle b;
    inputs in = {0};
    if (pc_bundle_open(&b, dir)) abort();
    const pc_vlm_config *c = &b.model.config.vlm;
    inputs_open(&in, dir, c);
    const int64_t F = in.images * (pc_vision_tokens(&c->vision) - 1) * c->decoder.C;
    const int64_t L = in.batch.N * c->decoder.V;
    float *features[2], *logits = malloc((size_t)L * sizeof *logits);
    for (int i = 0; i < 2; i++) features[i] = malloc((size_t)F * sizeof(float));
    if (!features[0] || !features[1] || !logits) abort();
    printf("%s: departures of llama.cpp, one at a time\n", dir);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const departure *how = &list[i];
        if (how->lost && pc_vlm_stop(c) < 2) continue;
        measure(dir, how, NULL, features[i > 0], logits);
        const double f = parity_error(features[i > 0], features[0], F);
        const double l = parity_error(logits, in.want, L);
        printf("  %-36s features %.1e  logits %.1e\n", how->name, f, l);
        CHECK(l >= how->least && l <= how->most);
    }
    for (int i = 0; i < 2; i++) free(features[i]);
    free(logits);
    inputs_close(&in);
    pc_bundle_close(&b);
}

/* ---- images: shrunk, then padded ---- */

static void shrink_then_pad(uint8_t *out, const pc_image *im, int64_t S)
{
    static const uint8_t colour[3] = {122, 116, 104};
    const int64_t longer = im->width > im->height ? im->width : im->height;
    const int64_t w = (im->width * S + longer - 1) / longer,
                  h = (im->height * S + longer - 1) / longer;
    pc_image small;
    if (pc_image_resize(&small, im, w, h, PC_FILTER_BICUBIC)) abort();
    for (int64_t i = 0; i < S * S; i++) memcpy(out + 3 * i, colour, 3);
    for (int64_t y = 0; y < h; y++)
        memcpy(out + 3 * ((y + (S - h) / 2) * S + (S - w) / 2), small.rgb + 3 * y * w,
               (size_t)(3 * w));
    pc_image_close(&small);
}

static void pictures(void)
{
    static const char *const names[] = {"png_rgb_wide.png", "png_rgb_tall.png", "jpg_420_q75.jpg",
                                        "jpg_444_q95.jpg"};
    enum { S = 336 };
    static float pixels[3 * S * S];
    static uint8_t other[3 * S * S];
    const pc_image_config c = pc_image_config_default(S);
    if (!shared_path("goldens/preproc/images")) return;
    printf("images of 336 pixels: shrunk and then padded, against padded and then shrunk\n");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char file[128];
        pc_image im;
        double sum = 0.0, most = 0.0;
        snprintf(file, sizeof file, "goldens/preproc/images/%s", names[i]);
        if (pc_image_open(&im, shared_path(file), true) || pc_image_preprocess(pixels, &im, &c))
            abort();
        shrink_then_pad(other, &im, S);
        for (int64_t k = 0; k < 3 * S * S; k++) {
            const int64_t ch = k / (S * S), place = k % (S * S);
            const double level = 255.0 * ((double)pixels[k] * c.std[ch] + c.mean[ch]);
            const double d = fabs(level - (double)other[3 * place + ch]);
            sum += d;
            most = fmax(most, d);
        }
        printf("  %-20s %4lldx%-4lld mean %.2f levels, most %.0f\n", names[i], (long long)im.width,
               (long long)im.height, sum / (3.0 * S * S), most);
        CHECK(most > 0.5 && sum / (3.0 * S * S) < 16.0); // noise suffers most: 9 levels
        pc_image_close(&im);
    }
}

int main(void)
{
    scratch_open();
    table(parity_own("llava"));
    const char *dir = parity_shared("llava_tiny");
    if (dir) table(dir);
    pictures();
    scratch_close();
    return check_report("departures of llama.cpp") || parity_failed();
}
