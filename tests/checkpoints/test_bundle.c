/*
 * test_bundle.c - MODEL opened: a directory and a native file give the same numbers in the right places, and
 * what does not belong together is named.
 */
#include "checkpoints/bundle.h"
#include "checkpoints/hf.h"
#include "model/core/file.h"
#include "model/core/rng.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define CONFIG                                                                                     \
    "{\"model_type\":\"clip\",\"projection_dim\":8,"                                               \
    "\"text_config\":{\"hidden_size\":8,\"intermediate_size\":16,\"num_hidden_layers\":2,"         \
    "\"num_attention_heads\":2,\"max_position_embeddings\":6,\"vocab_size\":20,"                   \
    "\"eos_token_id\":19},"                                                                        \
    "\"vision_config\":{\"hidden_size\":12,\"intermediate_size\":20,\"num_hidden_layers\":1,"      \
    "\"num_attention_heads\":3,\"image_size\":16,\"patch_size\":8}}"
#define IMAGES(size)                                                                               \
    "{\"size\":{\"shortest_edge\":" size "},\"crop_size\":" size ",\"do_center_crop\":true,"       \
    "\"image_mean\":[0.5,0.5,0.5],\"image_std\":[0.25,0.25,0.25]}"

static void put(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

/* ---- a directory as it would be published ---- */

typedef struct published {
    pc_model model;
    pc_st_out list[128];
    int64_t n;
} published;

// A model of CONFIG with random numbers, and the list of its tensors under their names.
static void publish_open(published *p)
{
    const pc_family *f = NULL;
    pc_model_config c;
    pc_aliases a = {0};
    json_t *json = json_loads(CONFIG, 0, NULL);
    assert_non_null(json);
    if (pc_family_from_config(&f, &c, json)) fail_msg("%s", pc_error_text());
    json_decref(json);
    *p = (published){0};
    assert_int_equal(pc_model_open(&p->model, &c, PC_F32, true), PC_OK);
    const pc_rng_key key = {.seed = 11, .stream = PC_STREAM_TEST};
    uint64_t at = 0;
    for (int i = 0; i < p->model.params.count; i++) {
        const pc_tensor w = p->model.params.list[i].weight->w;
        for (int64_t k = 0; k < pc_numel(w); k++)
            ((float *)w.data)[k] = (float)pc_rng_normal(&key, at++);
    }
    assert_int_equal(f->aliases(&a, &c, 0), PC_OK);
    for (int i = 0; i < a.count; i++) {
        const pc_alias *x = &a.list[i];
        pc_st_out *o = &p->list[p->n++];
        const pc_param *ours = pc_params_find(&p->model.params, x->ours);
        *o = (pc_st_out){.dtype = PC_F32,
                         .rank = x->rank,
                         .data = pc_alias_data(x, ours->weight->w)};
        snprintf(o->name, sizeof o->name, "%s", x->theirs);
        for (int k = 0; k < x->rank; k++) o->dim[k] = x->dim[k];
    }
    pc_aliases_close(&a);
    mkdir(scratch_path("hf"), 0777);
    put("hf/config.json", CONFIG);
    put("hf/preprocessor_config.json", IMAGES("16"));
}

static void publish_write(const published *p)
{
    if (pc_safetensors_write(scratch_path("hf/model.safetensors"), p->list, p->n, NULL))
        fail_msg("%s", pc_error_text());
}

static pc_st_out *find_out(published *p, const char *name)
{
    for (int64_t i = 0; i < p->n; i++)
        if (!strcmp(p->list[i].name, name)) return &p->list[i];
    fail_msg("no tensor '%s'", name);
    return NULL;
}

static bool same_weights(const pc_params *a, const pc_params *b)
{
    for (int i = 0; i < a->count; i++) {
        const pc_tensor x = a->list[i].weight->w, y = b->list[i].weight->w;
        if (memcmp(x.data, y.data, (size_t)pc_numel(x) * sizeof(float)) != 0) return false;
    }
    return a->count == b->count;
}

static void test_directory(void **state)
{
    (void)state;
    published p;
    pc_bundle b;
    publish_open(&p);
    publish_write(&p);
    if (pc_bundle_open(&b, scratch_path("hf"))) fail_msg("%s", pc_error_text());
    assert_true(same_weights(&p.model.params, &b.model.params));
    assert_string_equal(b.family->name, "clip");
    assert_true(b.has_image && b.image.size == 16 && b.image.fit == PC_FIT_CROP);
    assert_true(b.image.std[1] == 0.25);
    assert_null(b.tokenizer);
    assert_int_equal(b.aliases.count, p.n);
    pc_bundle_close(&b);

    if (pc_bundle_open_light(&b, scratch_path("hf"))) fail_msg("%s", pc_error_text());
    assert_int_equal(b.model.params.count, 0);
    assert_int_equal(b.model.config.clip.text.V, 20);
    assert_true(b.has_image);
    pc_bundle_close(&b);
    pc_model_close(&p.model);
}

// q, k and v of theirs are rows of one matrix of ours, in this order.
static void test_fused_rows(void **state)
{
    (void)state;
    published p;
    pc_bundle b;
    publish_open(&p);
    publish_write(&p);
    assert_int_equal(pc_bundle_open(&b, scratch_path("hf")), PC_OK);
    static const char *const parts[] = {"q", "k", "v"};
    const float *ours =
        pc_params_find(&b.model.params, "text.blocks.1.attn.qkv.weight")->weight->w.data;
    for (int i = 0; i < 3; i++) {
        char name[128];
        snprintf(name, sizeof name, "text_model.encoder.layers.1.self_attn.%s_proj.weight",
                 parts[i]);
        assert_memory_equal(ours + i * 64, find_out(&p, name)->data, 64 * sizeof(float));
    }
    // A convolution [C,3,p,p] is a matrix (C,3p^2).
    const pc_st_out *conv = find_out(&p, "vision_model.embeddings.patch_embedding.weight");
    const pc_param *patch = NULL;
    for (int i = 0; i < b.aliases.count && !patch; i++)
        if (!strcmp(b.aliases.list[i].theirs, conv->name))
            patch = pc_params_find(&b.model.params, b.aliases.list[i].ours);
    assert_non_null(patch);
    assert_int_equal(conv->rank, 4);
    assert_int_equal(patch->rank, 2);
    assert_int_equal(patch->dim[1], 192);
    assert_memory_equal(patch->weight->w.data, conv->data, 12 * 192 * sizeof(float));
    pc_bundle_close(&b);
    pc_model_close(&p.model);
}

static void expect_open(const char *path, const char *message)
{
    pc_bundle b;
    const pc_status st = pc_bundle_open(&b, path);
    if (!message && st) fail_msg("%s", pc_error_text());
    if (message && (!st || !strstr(pc_error_text(), message)))
        fail_msg("expected '%s', got %d: '%s'", message, (int)st, pc_error_text());
    if (!st) pc_bundle_close(&b);
}

static void test_tensors_that_do_not_fit(void **state)
{
    (void)state;
    published p;
    publish_open(&p);
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", scratch_path("hf"));
    pc_st_out *last = &p.list[p.n], *some = find_out(&p, "text_projection.weight");
    const pc_st_out old = *some;
    const float zero[64] = {0};

    *last = (pc_st_out){"vision_model.embeddings.position_ids", PC_I64, 1, {2}, zero};
    p.n++;
    publish_write(&p); // a name that means nothing is let pass
    expect_open(dir, NULL);
    snprintf(last->name, sizeof last->name, "text_model.other.weight");
    publish_write(&p);
    expect_open(dir, "1 tensor not known: 'text_model.other.weight'");
    p.n--;

    snprintf(some->name, sizeof some->name, "text_projection.wieght");
    publish_write(&p);
    expect_open(dir, "1 tensor missing: 'text_projection.weight'; 1 tensor not known: "
                     "'text_projection.wieght'");
    *some = old;
    some->dim[0] = 4;
    some->dim[1] = 16;
    publish_write(&p);
    expect_open(dir, "'text_projection.weight': the file has (4,16), config.json asks for (8,8)");
    *some = old;
    some->dtype = PC_I32; // integers are numbers too, and of another size they are not
    publish_write(&p);
    expect_open(dir, NULL);
    pc_model_close(&p.model);
}

static void test_configs(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text, *message;
    } cases[] = {
        {"hf/config.json", "{\"model_type\":\"clpi\"}", "clip"},
        {"hf/config.json", "{\"architectures\":[]}", "model_type"},
        {"hf/config.json", "[", "config.json' line 1"},
        {"hf/config.json", "{\"model_type\":\"clip\",\"model_type\":\"clip\"}", "duplicate"},
        {"hf/config.json",
         "{\"model_type\":\"clip\",\"quantization_config\":{\"quant_method\":\"awq\"}}",
         "quantised by 'awq'"},
        {"hf/preprocessor_config.json", IMAGES("32"),
         "prepared at 32 pixels, the vision tower takes 16"},
        {"hf/preprocessor_config.json", "{\"size\":{\"shortest_edge\":16}}", "without a crop"},
        {"hf/preprocessor_config.json", "{\"size\":16,\"crop_size\":8}", "'crop_size' is 8"},
        {"hf/preprocessor_config.json", "{\"size\":16,\"crop_size\":16,\"resample\":1}",
         "'resample' is 1"},
        {"hf/preprocessor_config.json", "{\"size\":16,\"crop_size\":16,\"rescale_factor\":1}",
         "scaled by 1"},
        {"hf/preprocessor_config.json", "{\"size\":16,\"crop_size\":16,\"image_std\":[1,1,0]}",
         "deviation 2"},
        {"hf/preprocessor_config.json", "{\"size\":16,\"crop_size\":16}", NULL},
    };
    published p;
    publish_open(&p);
    publish_write(&p);
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", scratch_path("hf"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("hf/config.json", CONFIG);
        put("hf/preprocessor_config.json", IMAGES("16"));
        put(cases[i].file, cases[i].text);
        expect_open(dir, cases[i].message);
    }
    put("hf/preprocessor_config.json", IMAGES("16"));
    put("hf/tokenizer.json", "{\"model\":{\"type\":\"Unheard\"}}");
    expect_open(dir, NULL); // with a warning: the weights are still of use
    unlink(scratch_path("hf/tokenizer.json"));
    unlink(scratch_path("hf/model.safetensors"));
    expect_open(dir, "neither model.safetensors nor");
    unlink(scratch_path("hf/config.json"));
    expect_open(dir, "no config.json");
    expect_open(scratch_path("hf/model.safetensors"), "give its folder");
    expect_open(scratch_path("nobody.h5"), "No such file");
    pc_model_close(&p.model);
}

/* ---- native ---- */

static void test_native(void **state)
{
    (void)state;
    static char tokenizer[] = "{", image[] = "{\"size\":16,\"fit\":\"pad\"}",
                small[] = "{\"size\":8}", vicuna[] = "vicuna_v1", unknown[] = "vicuna_v2";
    published p;
    pc_bundle b;
    publish_open(&p);
    char path[4096];
    snprintf(path, sizeof path, "%s", scratch_path("model.h5"));
    json_t *json = pc_model_config_to_json(&p.model.config);
    pc_native_text t = {.model = json_dumps(json, JSON_COMPACT),
                        .image = image,
                        .template_name = vicuna};
    json_decref(json);
    assert_non_null(t.model);
    assert_int_equal(pc_native_write(path, &p.model.params, false, &t), PC_OK);
    if (pc_bundle_open(&b, path)) fail_msg("%s", pc_error_text());
    assert_true(same_weights(&p.model.params, &b.model.params));
    assert_null(b.family);
    assert_ptr_equal(b.template, pc_template_find("vicuna_v1"));
    assert_true(b.has_image && b.image.size == 16 && b.image.fit == PC_FIT_PAD);
    assert_string_equal(b.text.model, t.model);
    pc_bundle_close(&b);
    assert_int_equal(pc_bundle_open_light(&b, path), PC_OK);
    assert_int_equal(b.model.params.count, 0);
    pc_bundle_close(&b);

    t.template_name = unknown;
    assert_int_equal(pc_native_write(path, &p.model.params, false, &t), PC_OK);
    expect_open(path, "unknown template 'vicuna_v2' (nearest: 'vicuna_v1')");
    t.template_name = vicuna;
    t.image = small;
    assert_int_equal(pc_native_write(path, &p.model.params, false, &t), PC_OK);
    expect_open(path, "prepared at 8 pixels");
    t.image = image;
    t.tokenizer = tokenizer;
    assert_int_equal(pc_native_write(path, &p.model.params, false, &t), PC_OK);
    expect_open(path, "text 'tokenizer'");
    free(t.model);
    t = (pc_native_text){0};
    assert_int_equal(pc_native_write(path, &p.model.params, false, &t), PC_OK);
    expect_open(path, "no text 'model'");
    pc_model_close(&p.model);
}

/* ---- published files ---- */

// Written natively and opened again, a published model is the same model.
static void check_native_copy(const pc_bundle *b)
{
    char path[4096];
    pc_bundle copy;
    snprintf(path, sizeof path, "%s", scratch_path("copy.h5"));
    json_t *json = pc_model_config_to_json(&b->model.config);
    pc_native_text t = {.model = json_dumps(json, JSON_COMPACT)};
    json_decref(json);
    assert_int_equal(pc_native_write(path, &b->model.params, false, &t), PC_OK);
    if (pc_bundle_open(&copy, path)) fail_msg("%s: %s", b->path, pc_error_text());
    assert_true(same_weights(&b->model.params, &copy.model.params));
    pc_bundle_close(&copy);
    free(t.model);
}

static void test_reference_models(void **state)
{
    (void)state;
    static const char *const dirs[] = {
        "clip_tiny/a",     "clip_tiny/b",     "siglip_tiny",       "llava_tiny",
        "text_tiny/qwen2", "text_tiny/llama", "text_tiny/mistral", "formats/sharded_bf16_llama3",
    };
    if (!shared_path("goldens")) skip();
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        char name[128];
        pc_bundle b;
        snprintf(name, sizeof name, "goldens/%s", dirs[i]);
        if (pc_bundle_open(&b, shared_path(name))) fail_msg("%s", pc_error_text());
        assert_null(pc_params_nonfinite(&b.model.params, false));
        check_native_copy(&b);
        pc_bundle_close(&b);
    }
}

static int setup(void **state)
{
    (void)state;
    scratch_open();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_fused_rows),
        cmocka_unit_test(test_tensors_that_do_not_fit),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_native),
        cmocka_unit_test(test_reference_models),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
