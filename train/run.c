/*
 * run.c - data, plan, engine, optimiser and loaders of a run, in that order.
 */
#include "train/run.h"

#include "model/core/log.h"
#include "train/manifest.h"
#include "train/state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const int64_t SMALL_MODEL = 20 * 1000 * 1000; // parameters: below, threads share samples

// ---- data ----------------------------------------------------------------------------------------

static pc_status open_data(pc_dataset *out, const recipe *r, const recipe_sources *s,
                           const char *key)
{
    pc_source *list = calloc((size_t)s->count + 1, sizeof *list);
    if (!list) return pc_fail(PC_ERR_MEMORY, "%s", key);
    for (int64_t i = 0; i < s->count; i++)
        list[i] = (pc_source){s->list[i].full_path, s->list[i].full_images, s->list[i].weight};
    const pc_bad_sample policy = r->data.on_bad_sample == BAD_SKIP ? PC_BAD_SKIP : PC_BAD_ERROR;
    pc_status st = pc_dataset_open(out, list, (int)s->count, policy);
    free(list);
    if (st) return pc_context(st, "%s", key);
    if (out->n_skipped) {
        pc_warn("%s: %lld rows left out", key, (long long)out->n_skipped);
        for (int64_t i = 0; i < out->n_skipped && i < 20; i++) pc_warn("  %s", out->skipped[i]);
    }
    if (out->count == 0) return pc_fail(PC_ERR_INPUT, "%s: no usable row", key);
    return PC_OK;
}

// Rows must be of the kind that the stage learns from.
static pc_status check_rows(const recipe *r, const pc_dataset *d, const char *key)
{
    for (int64_t i = 0; i < d->count; i++) {
        const pc_sample *s = &d->samples[i];
        const char *lacks = r->top.stage == STAGE_PRETRAIN && s->n_captions == 0 ? "no captions"
                            : r->top.stage == STAGE_PRETRAIN && !s->image        ? "no image"
                                                                                 : NULL;
        if (lacks)
            return pc_fail(PC_ERR_INPUT, "%s: %s:%lld: a row with %s; stage pretrain needs both",
                           key, s->file, (long long)s->line, lacks);
    }
    return PC_OK;
}

// The validation samples looked at: all, or `eval.samples` spread evenly over them.
static pc_status choose_shown(run *u)
{
    const int64_t all = u->val.count, want = u->recipe->eval.samples;
    const int64_t n = want > 0 && want < all ? want : all;
    u->shown = (pc_dataset){.count = n};
    u->shown.samples = calloc((size_t)n + 1, sizeof *u->shown.samples);
    u->shown.source_begin = calloc(2, sizeof *u->shown.source_begin);
    u->shown.source_weight = calloc(1, sizeof *u->shown.source_weight);
    if (!u->shown.samples || !u->shown.source_begin || !u->shown.source_weight)
        return pc_fail(PC_ERR_MEMORY, "data.val");
    for (int64_t i = 0; i < n; i++) u->shown.samples[i] = u->val.samples[i * all / n];
    u->shown.source_begin[1] = n;
    u->shown.source_weight[0] = 1.0;
    u->shown.n_sources = 1;
    return PC_OK;
}

// ---- loaders -------------------------------------------------------------------------------------

static pc_loader_config loader_settings(const run *u, bool train)
{
    const recipe *r = u->recipe;
    const bool vlm = u->model->config.kind == PC_MODEL_VLM;
    const int64_t T = vlm ? u->model->config.vlm.decoder.T : u->model->config.clip.text.T;
    return (pc_loader_config){
        .batch = r->batch.size,
        .micro = r->batch.micro,
        .seed = (uint64_t)r->top.seed,
        .threads = train ? (int)r->compute.loaders : 1,
        .ahead = train ? (int)r->compute.ahead : 1,
        .on_bad_image = r->data.on_bad_sample == BAD_SKIP ? PC_BAD_SKIP : PC_BAD_ERROR,
        .max_tokens = r->text.max_tokens ? r->text.max_tokens : T,
        .branches = r->text.branches,
        .max_turns = train ? r->text.max_turns : 0,
        .shuffle = train,
        .random_caption = train && r->data.random_caption,
        .cache_images = r->data.cache_images,
    };
}

static pc_status open_loaders(run *u)
{
    const pc_model_config *config = &u->model->config;
    pc_loader_config c = loader_settings(u, true);
    pc_status st = pc_loader_open(&u->loader, &u->train, config, u->tokenizer, u->template,
                                  &u->image, &c, u->state.step);
    if (st) return pc_context(st, "data.train");
    u->steps_per_epoch = pc_loader_steps_per_epoch(u->loader);
    if (u->val.count == 0) return PC_OK;
    c = loader_settings(u, false);
    st = pc_loader_open(&u->val_loader, &u->shown, config, u->tokenizer, u->template, &u->image, &c,
                        0);
    return pc_context(st, "data.val");
}

static void set_length(run *u)
{
    const recipe *r = u->recipe;
    u->steps = r->length.steps > 0 ? r->length.steps
                                   : (int64_t)ceil(r->length.epochs * (double)u->steps_per_epoch);
    if (u->steps < 1) u->steps = 1;
    u->schedule = (schedule){.kind = (schedule_kind)r->optim.schedule,
                             .lr = r->optim.lr,
                             .min_ratio = r->optim.min_lr,
                             .warmup = schedule_warmup(r->optim.warmup, u->steps),
                             .steps = u->steps};
}

// ---- the plan ------------------------------------------------------------------------------------

static plan_batch largest(const run *u, pc_loader *l)
{
    plan_batch b = {.samples = u->recipe->batch.micro};
    pc_loader_worst(l, &b.rows, &b.images, &b.supervised);
    int64_t measured;
    b.geometry = pc_loader_worst_images(l, &measured);
    if (b.geometry) b.images = measured;
    if (b.rows < b.samples) b.rows = b.samples;
    return b;
}

static size_t file_bytes(const recipe_sources *s)
{
    size_t bytes = 0;
    for (int64_t i = 0; i < s->count; i++) {
        struct stat info;
        if (!stat(s->list[i].full_path, &info)) bytes += (size_t)info.st_size;
    }
    return bytes;
}

// Batches ahead, images kept, texts: an estimate where everything else is counted.
static size_t data_bytes(const run *u)
{
    const recipe *r = u->recipe;
    const size_t pixel = (size_t)(3 * u->image.size * u->image.size);
    const size_t micros = (size_t)(r->batch.size / r->batch.micro);
    const size_t batch = micros * ((size_t)pc_loader_worst_numbers(u->loader) * sizeof(float) +
                                   (size_t)u->request.train.rows * 32);
    size_t images = 0;
    if (r->data.cache_images && u->image.kind == PC_IMAGE_SQUARE) {
        for (int64_t i = 0; i < u->train.count; i++) images += u->train.samples[i].image != NULL;
        for (int64_t i = 0; i < u->shown.count; i++) images += u->shown.samples[i].image != NULL;
    }
    return batch * (size_t)(r->compute.ahead + 2) + images * pixel +
           2 * (file_bytes(&r->data.train) + file_bytes(&r->data.val));
}

static void share_threads(run *u)
{
    const recipe *r = u->recipe;
    plan_request *q = &u->request;
    const int64_t micros = r->batch.size / r->batch.micro;
    q->samples = r->compute.split == SPLIT_SAMPLES ||
                 (r->compute.split == SPLIT_AUTO && micros >= 2 &&
                  pc_params_numel(&u->model->params, false) < SMALL_MODEL);
    if (u->backend.memory) q->samples = false; // a device has one replica
    q->replicas = !q->samples ? 1 : micros < u->threads ? (int)micros : u->threads;
    if (q->replicas == 1) q->samples = false; // alone, it may as well use every thread
}

static pc_status make_plan(run *u)
{
    const recipe *r = u->recipe;
    plan_request *q = &u->request;
    q->model = u->model;
    q->pool = u->pool;
    q->batch = r->batch.size;
    q->train = largest(u, u->loader);
    if (u->val_loader) q->val = largest(u, u->val_loader);
    q->dropout = r->top.dropout;
    q->adapter_dropout = r->lora.dropout;
    q->muon = r->optim.name == OPTIM_MUON;
    q->data = data_bytes(u);
    q->memory = u->backend.memory;
    q->real = u->backend.real;
    q->gradients = r->optim.gradients == KEPT_BF16 ? PC_BF16 : PC_F32;
    q->moments = r->optim.moments == KEPT_BF16 ? PC_BF16 : PC_F32;
    q->master = r->optim.master == KEPT_FP32;
    q->fp8 = r->top.precision == PRECISION_FP8;
    const size_t room = u->backend.memory ? u->backend.room : plan_machine_memory();
    q->limit = r->compute.memory ? (size_t)r->compute.memory << 20 : room;
    q->keep_all = r->compute.replay != REPLAY_ON;
    share_threads(u);
    if (r->compute.recompute == RECOMPUTE_BLOCK) plan_recompute(u->model, PC_RECOMPUTE_BLOCK);

    pc_status st = plan_make(&u->plan, q);
    // `auto` gives up speed for room only where it must.
    if (!st && u->plan.total > q->limit && r->compute.replay == REPLAY_AUTO && q->keep_all) {
        q->keep_all = false;
        st = plan_make(&u->plan, q);
    }
    if (!st && u->plan.total > q->limit && r->compute.recompute == RECOMPUTE_AUTO) {
        plan_recompute(u->model, PC_RECOMPUTE_BLOCK);
        st = plan_make(&u->plan, q);
    }
    return st;
}

// ---- the whole -----------------------------------------------------------------------------------

static pc_status read_state(run *u)
{
    const run_state now = u->state;
    pc_status st = state_read(&u->state, u->text.state);
    free(u->text.state);
    u->text.state = NULL;
    if (st) return st;
    if (now.samples != u->state.samples || strcmp(now.data, u->state.data) != 0)
        return pc_fail(
            PC_ERR_INPUT,
            "data.train: %lld samples now, %lld when the run began, or other contents: a "
            "run goes on with the data it began with",
            (long long)now.samples, (long long)u->state.samples);
    u->resumed = true;
    return PC_OK;
}

static pc_status open_engine(run *u)
{
    const recipe *r = u->recipe;
    const optimizer_config adamw = {.beta1 = r->optim.betas.v[0],
                                    .beta2 = r->optim.betas.v[1],
                                    .eps = r->optim.eps,
                                    .weight_decay = r->optim.weight_decay,
                                    .clip = r->optim.clip,
                                    .muon = r->optim.name == OPTIM_MUON,
                                    .stochastic = r->optim.rounding == ROUNDING_STOCHASTIC,
                                    .seed = (uint64_t)r->top.seed,
                                    .real = u->request.real,
                                    .moments = u->request.moments,
                                    .master = u->request.master,
                                    .backend = &u->backend};
    const engine_config config = {.backend = &u->backend,
                                  .replicas = u->request.replicas,
                                  .samples = u->request.samples,
                                  .dropout = r->top.dropout,
                                  .adapter_dropout = r->lora.dropout,
                                  .seed = (uint64_t)r->top.seed,
                                  .gradients = u->request.gradients,
                                  .fp8 = u->request.fp8,
                                  .kept = u->plan.kept};
    u->augment = (augment){.crop = r->augment.crop,
                           .flip = r->augment.flip,
                           .colour = r->augment.colour,
                           .words = r->augment.words,
                           .keep = pc_tokenizer_eos(u->tokenizer),
                           .seed = (uint64_t)r->top.seed};
    pc_status st = PC_OK;
    const bool pixels = r->augment.crop < 1.0 || r->augment.flip || r->augment.colour > 0.0;
    if (pixels && u->image.kind != PC_IMAGE_SQUARE)
        return pc_fail(PC_ERR_INPUT, "augment: crop, flip and colour change one square; images of "
                                     "this model are prepared in parts");
    if (augment_wanted(&u->augment)) st = augment_open(&u->augment, u->image.size, u->pool);
    if (!st) st = pc_placement_open(&u->placement, u->model, &u->backend);
    if (!st) st = engine_open(&u->engine, u->model, u->pool, &config, &u->plan.sizes);
    if (!st) st = optimizer_open(&u->optimizer, &u->model->params, &adamw, u->pool);
    if (!st) pc_placement_masters(&u->placement);
    return st;
}

static void compare_threads(run *u)
{
    const run_state *s = &u->state;
    if (s->threads != u->threads || s->replicas != u->request.replicas)
        pc_warn("the run began with %d threads and %d replicas and goes on with %d and %d: it will "
                "not end in the same bits",
                s->threads, s->replicas, u->threads, u->request.replicas);
}

// Where to compute, and in what.
static pc_status choose_backend(run *u)
{
    const recipe *r = u->recipe;
    const pc_status st = pc_backend_choose(&u->backend, recipe_word("device", r->top.device));
    if (st) return st;
    const bool fp8 = r->top.precision == PRECISION_FP8;
    if (u->backend.memory) {
        if (r->top.precision != PRECISION_FP32) u->backend.real = PC_BF16;
        if (fp8 && !u->backend.fp8)
            return pc_fail(
                PC_ERR_INPUT,
                "precision: fp8 needs a GPU of compute capability 8.9 or newer, and this "
                "is a %s; use bf16",
                u->backend.device);
        return PC_OK;
    }
    if (fp8 || r->top.precision == PRECISION_BF16)
        return pc_fail(PC_ERR_INPUT,
                       "precision: %s needs device: cuda; here it is the cpu, which "
                       "computes in fp32",
                       fp8 ? "fp8" : "bf16");
    const char *key = r->optim.moments == KEPT_BF16     ? "moments"
                      : r->optim.gradients == KEPT_BF16 ? "gradients"
                                                        : NULL;
    if (key)
        return pc_fail(PC_ERR_INPUT, "optim.%s: bf16 needs device: cuda; the cpu keeps fp32", key);
    return PC_OK;
}

pc_status run_open(run *u, recipe *r, const char *last, bool plan_only)
{
    *u = (run){.recipe = r};
    pc_status st;
    u->threads = r->compute.threads ? (int)r->compute.threads : pc_cpu_count();
    if ((st = choose_backend(u)) || (st = pc_pool_open(&u->pool, u->threads)) ||
        (st = open_data(&u->train, r, &r->data.train, "data.train")) ||
        (st = check_rows(r, &u->train, "data.train")))
        goto out;
    if (r->data.val.count && ((st = open_data(&u->val, r, &r->data.val, "data.val")) ||
                              (st = check_rows(r, &u->val, "data.val")) || (st = choose_shown(u))))
        goto out;
    u->state.samples = u->train.count;
    if ((st = manifest_rows(u->state.data, &r->data.train)) || (st = run_open_model(u, last)) ||
        (last && (st = read_state(u))) || (st = run_set_modules(u)) || (st = open_loaders(u)))
        goto out;
    set_length(u);
    u->chance = objective_chance(u->model, r->batch.size);
    if ((st = make_plan(u)) || plan_only) goto out;
    if ((st = plan_check(&u->plan, &u->request)) || (st = open_engine(u))) goto out;
    if (last) {
        st = pc_placement_fetch(&u->placement);
        if (!st) st = pc_native_load(&u->model->params, last, true, true, NULL);
        if (!st) pc_placement_upload(&u->placement);
        pc_placement_return(&u->placement);
        fp8_upload(&u->engine.fp8);
        u->optimizer.t = u->state.t;
        compare_threads(u);
    }
    u->state.threads = u->threads;
    u->state.replicas = u->request.replicas;
out:
    return st;
}

pc_status run_rewind(run *u, int64_t step)
{
    const pc_loader_config c = loader_settings(u, true);
    pc_loader_close(u->loader);
    u->loader = NULL;
    return pc_loader_open(&u->loader, &u->train, &u->model->config, u->tokenizer, u->template,
                          &u->image, &c, step);
}

void run_close(run *u)
{
    pc_loader_close(u->loader);
    pc_loader_close(u->val_loader);
    optimizer_close(&u->optimizer);
    augment_close(&u->augment);
    engine_close(&u->engine);
    pc_placement_close(&u->placement);
    pc_bundle_close(&u->bundle);
    pc_native_text_close(&u->text);
    pc_dataset_close(&u->train);
    pc_dataset_close(&u->val);
    free(u->shown.samples);
    free(u->shown.source_begin);
    free(u->shown.source_weight);
    pc_pool_close(u->pool);
    *u = (run){0};
}

double run_flops(const run *u, const pc_batch *b)
{
    const plan *p = &u->plan;
    const double images =
        u->model->config.kind == PC_MODEL_CLIP ? (double)b->samples : (double)b->images;
    return p->flops_row * (double)b->tokens + p->flops_image * images +
           p->flops_supervised * (double)b->supervised;
}
