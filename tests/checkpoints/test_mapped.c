/*
 * test_mapped.c - models whose matrices stay in their files give what the same models give when everything is widened
 * first: directories and native checkpoints in f32, bf16 and f16, two towers and decoders with eyes, logits, embeddings
 * and greedy answers; with adapters beside them; and what cannot be done with them is refused.
 */
#include "checkpoints/bundle.h"
#include "checkpoints/given.h"
#include "checkpoints/numbers.h"
#include "model/core/file.h"
#include "model/networks/runner.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void must(pc_status st)
{
    if (st) fail_msg("%s", pc_error_text());
}

static const char *in(const char *dir, const char *name)
{
    static char path[4][8400];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%.4000s/%.100s", dir, name);
    return p;
}

/* ---- the same model in another type ---- */

static pc_status narrow(void *arg, void *buffer, int64_t index, int64_t begin, int64_t count)
{
    pc_st_out *const *list = arg;
    const pc_st_out *t = &(*list)[index];
    pc_narrow(buffer, t->dtype, (const float *)t->data + begin, count);
    return PC_OK;
}

static const char *directory(const char *name, const char *from, pc_dtype t)
{
    const char *dir = scratch_path(name);
    char keep[4200], file[4200];
    snprintf(keep, sizeof keep, "%s", dir);
    must(pc_make_dirs(keep));
    char *config;
    size_t size;
    must(pc_file_read(&config, &size, in(from, "config.json"), 1 << 20));
    must(pc_file_write(in(keep, "config.json"), config, size));
    free(config);
    pc_safetensors *s;
    must(pc_safetensors_open_dir(&s, from));
    const int64_t n = pc_safetensors_count(s);
    pc_st_out *list = calloc((size_t)n, sizeof *list);
    assert_non_null(list);
    for (int64_t i = 0; i < n; i++) {
        const pc_st_entry *e = pc_safetensors_at(s, i);
        assert_string_equal(e->dtype, "F32");
        list[i] = (pc_st_out){.dtype = t, .rank = e->rank, .data = e->data};
        snprintf(list[i].name, sizeof list[i].name, "%s", e->name);
        memcpy(list[i].dim, e->dim, sizeof e->dim);
    }
    snprintf(file, sizeof file, "%s", in(keep, "model.safetensors"));
    must(pc_safetensors_stream(file, list, n, NULL, narrow, &list));
    free(list);
    pc_safetensors_close(s);
    return scratch_path(name);
}

typedef struct put {
    const float *data;
    pc_dtype t;
} put;

static pc_status put_piece(void *arg, void *buffer, int64_t begin, int64_t count)
{
    const put *p = arg;
    pc_narrow(buffer, p->t, p->data + begin, count);
    return PC_OK;
}

static const char *native(const char *name, const char *from, pc_dtype t)
{
    pc_bundle b;
    pc_native_out *out;
    must(pc_bundle_open(&b, from));
    json_t *json = pc_model_config_to_json(&b.model.config);
    pc_native_text text = {.model = json_dumps(json, 0)};
    json_decref(json);
    must(pc_native_begin(&out, scratch_path(name), &text));
    pc_status st = PC_OK;
    for (int i = 0; i < b.model.params.count && !st; i++) {
        const pc_param *p = &b.model.params.list[i];
        put arg = {p->weight->w.data, t};
        st = pc_native_put(out, p->name, t, p->rank, p->dim, false, put_piece, &arg);
    }
    must(pc_native_end(out, st));
    pc_native_text_close(&text);
    pc_bundle_close(&b);
    return scratch_path(name);
}

/* ---- outputs ---- */

typedef struct outputs {
    pc_bundle *b;
    pc_given given;
    float *numbers; // logits of every row, or image and text embeddings
    int64_t count;
} outputs;

static void pass(pc_ctx *ctx, void *arg)
{
    outputs *o = arg;
    const pc_model *m = &o->b->model;
    if (m->config.kind == PC_MODEL_VLM) {
        pc_vlm_kept kept = {0};
        const pc_tensor normed = pc_vlm_forward(ctx, &kept, &m->vlm, &o->given.vlm, NULL);
        const pc_tensor z = pc_alloc2(ctx->act, PC_F32, normed.dim[0], m->config.vlm.decoder.V);
        const pc_tensor nll = pc_alloc1(ctx->act, PC_F32, normed.dim[0]);
        pc_decoder_logits(ctx, z, &m->vlm.decoder, normed);
        kept.normed = normed;
        pc_vlm_loss_forward(ctx, nll, &m->vlm, &kept, &o->given.vlm);
        if (ctx->act->dry) {
            o->count = pc_numel(z) + pc_numel(nll);
            return;
        }
        memcpy(o->numbers, z.data, (size_t)pc_numel(z) * sizeof(float));
        memcpy(o->numbers + pc_numel(z), nll.data, (size_t)pc_numel(nll) * sizeof(float));
        return;
    }
    pc_clip_kept kept = {0};
    const pc_tensor u = pc_clip_image_forward(ctx, &kept, &m->clip, o->given.pixels);
    const pc_tensor v = pc_clip_text_forward(ctx, &kept, &m->clip, &o->given.text);
    o->count = pc_numel(u) + pc_numel(v);
    if (ctx->act->dry) return;
    memcpy(o->numbers, u.data, (size_t)pc_numel(u) * sizeof(float));
    memcpy(o->numbers + pc_numel(u), v.data, (size_t)pc_numel(v) * sizeof(float));
}

static float *run(int64_t *count, pc_bundle *b, const char *golden)
{
    outputs o = {.b = b};
    pc_safetensors *s;
    pc_runner r;
    must(pc_safetensors_open(&s, in(golden, "inputs.safetensors")));
    must(pc_given_open(&o.given, s, &b->model.config, "", -1));
    must(pc_runner_open(&r, 2, NULL));
    must(pc_runner_fit(&r, pass, &o, NULL));
    o.numbers = calloc((size_t)o.count, sizeof *o.numbers);
    assert_non_null(o.numbers);
    must(pc_runner_run(&r, pass, &o));
    pc_runner_close(&r);
    pc_given_close(&o.given);
    pc_safetensors_close(s);
    *count = o.count;
    return o.numbers;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double diff = 0.0, norm = 0.0;
    for (int64_t i = 0; i < n; i++) {
        diff += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(diff / norm);
}

static int in_files(const pc_bundle *b)
{
    int n = 0;
    for (int i = 0; i < b->model.params.count; i++) {
        const pc_param *p = &b->model.params.list[i];
        const pc_tensor w = p->linear && p->linear->pieces ? p->linear->piece[0] : p->weight->w;
        const unsigned char *arena = b->model.weights.base, *data = w.data;
        n += data < arena || data >= arena + b->model.weights.size;
    }
    return n;
}

static void alike(const char *path, const char *golden, bool mapped_at_all)
{
    pc_bundle loaded, mapped;
    int64_t n, k;
    must(pc_bundle_open(&loaded, path));
    must(pc_bundle_open_mapped(&mapped, path, NULL));
    int matrices = 0;
    for (int i = 0; i < mapped.model.params.count; i++)
        matrices += mapped.model.params.list[i].stays;
    assert_int_equal(in_files(&mapped), mapped_at_all ? matrices : 0);
    float *a = run(&n, &mapped, golden), *b = run(&k, &loaded, golden);
    assert_int_equal(n, k);
    const double e = distance(a, b, n);
    printf("%-40s %d matrices in files, differs by %.1e\n", path, in_files(&mapped), e);
    if (!(e < 2e-6)) fail_msg("%s: %g", path, e); // seen 4e-7
    free(a);
    free(b);
    pc_bundle_close(&mapped);
    pc_bundle_close(&loaded);
}

static void test_types(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        pc_dtype t;
    } types[] = {{"f32", PC_F32}, {"bf16", PC_BF16}, {"f16", PC_F16}};
    static const char *const goldens[] = {"tests/goldens/llava", "tests/goldens/clip",
                                          "tests/goldens/siglip"};
    for (size_t g = 0; g < sizeof goldens / sizeof *goldens; g++) {
        if (!pc_is_dir(goldens[g])) continue;
        for (size_t i = 0; i < 3; i++) {
            char name[64];
            snprintf(name, sizeof name, "%zu-%s", g, types[i].name);
            alike(directory(name, goldens[g], types[i].t), goldens[g], true);
            snprintf(name, sizeof name, "%zu-%s.h5", g, types[i].name);
            alike(native(name, goldens[g], types[i].t), goldens[g], types[i].t != PC_F32);
        }
    }
}

/* ---- adapters on a mapped base ---- */

static void test_adapters(void **state)
{
    (void)state;
    const char *golden = "tests/goldens/llava", *dir = directory("adapted", golden, PC_BF16);
    pc_bundle b[2];
    float *out[2], *bare = NULL;
    int64_t n, k;
    for (int i = 0; i < 2; i++) {
        pc_module *list;
        int count;
        must(i ? pc_bundle_open_mapped(&b[i], dir, NULL) : pc_bundle_open(&b[i], dir));
        if (i) bare = run(&n, &b[i], golden);
        must(pc_modules_list(&list, &count, &b[i].model, b[i].family));
        pc_adapter_site *sites = calloc((size_t)count, sizeof *sites);
        assert_non_null(sites);
        for (int j = 0; j < count; j++) {
            sites[j] = list[j].site;
            sites[j].r = 3;
            sites[j].scale = sites[j].alpha = 1.5;
        }
        must(pc_model_adapt(&b[i].model, sites, count, true));
        for (int j = b[i].model.adapters.first; j < b[i].model.params.count; j++) {
            b[i].model.params.list[j].init = PC_INIT_NORMAL;
            b[i].model.params.list[j].init_scale = 0.1;
        }
        pc_params_init_from(&b[i].model.params, b[i].model.adapters.first, 4);
        out[i] = run(&k, &b[i], golden);
        free(sites);
        free(list);
    }
    assert_int_equal(n, k);
    assert_true(distance(out[1], bare, n) > 1e-3);
    assert_true(distance(out[1], out[0], n) < 2e-6);
    assert_int_not_equal(pc_adapters_merge(&b[1].model.adapters, &b[1].model.params), PC_OK);
    assert_non_null(strstr(pc_error_text(), "in its file"));
    free(bare);
    for (int i = 0; i < 2; i++) {
        free(out[i]);
        pc_bundle_close(&b[i]);
    }
}

// A native checkpoint that lacks a parameter, or has one of another model.
static void test_incomplete(void **state)
{
    (void)state;
    pc_bundle b, opened;
    must(pc_bundle_open(&b, "tests/goldens/llava"));
    json_t *json = pc_model_config_to_json(&b.model.config);
    pc_native_text text = {.model = json_dumps(json, 0)};
    json_decref(json);
    for (int wrong = 0; wrong < 3; wrong++) {
        pc_native_out *out;
        pc_status st = PC_OK;
        must(pc_native_begin(&out, scratch_path("wrong.h5"), &text));
        for (int i = wrong == 0; i < b.model.params.count && !st; i++) {
            const pc_param *p = &b.model.params.list[i];
            int64_t dim[PC_MAX_RANK];
            memcpy(dim, p->dim, sizeof dim);
            if (wrong == 1 && i == 3) dim[0]--;
            put arg = {p->weight->w.data, PC_BF16};
            st = pc_native_put(out, p->name, PC_BF16, p->rank, dim, false, put_piece, &arg);
        }
        put extra = {b.model.params.list[0].weight->w.data, PC_BF16};
        if (!st && wrong == 2)
            st = pc_native_put(out, "nobody.knows", PC_BF16, 1, (const int64_t[]){2}, false,
                               put_piece, &extra);
        must(pc_native_end(out, st));
        assert_int_not_equal(pc_bundle_open_mapped(&opened, scratch_path("wrong.h5"), NULL), PC_OK);
        const pc_param *at = &b.model.params.list[wrong == 1 ? 3 : 0];
        assert_non_null(strstr(pc_error_text(), wrong == 2 ? "nobody.knows" : at->name));
    }
    pc_native_text_close(&text);
    pc_bundle_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_incomplete),
    };
    scratch_open();
    const int failures = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close();
    return failures != 0;
}
