/*
 * test_config.c - the description of a model: defaults, what follows from other keys, errors that name the key, and
 * a round trip through JSON; and a model opened from it, its parameters, its replica.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/networks/model.h"
#include "tests/support/check.h"

static pc_status read_text(pc_model_config *c, const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    if (!json) {
        printf("FAILED the test's own JSON: %s: %s\n", error.text, text);
        check_failures++;
        return PC_ERR_FORMAT;
    }
    const pc_status st = pc_model_config_from_json(c, json);
    json_decref(json);
    return st;
}

static void refused(const char *text, const char *message)
{
    pc_model_config c;
    const pc_status st = read_text(&c, text);
    CHECK(st == PC_ERR_INPUT);
    if (st != PC_ERR_INPUT || strcmp(pc_error_text(), message)) {
        printf("FAILED %s\n   says     '%s'\n   expected '%s'\n", text, st ? pc_error_text() : "ok",
               message);
        check_failures++;
    }
}

#define SMALL_VLM                                                                                  \
    "\"vision\":{\"L\":1,\"C\":8,\"H\":2,\"image_size\":8,\"patch\":4},"                           \
    "\"decoder\":{\"V\":20,\"C\":12,\"H\":2,\"L\":1,\"T\":64}"

static void test_defaults(void)
{
    pc_model_config c;
    CHECK(!read_text(&c, "{\"kind\":\"vlm\"," SMALL_VLM "}"));
    const pc_vlm_config *v = &c.vlm;
    CHECK(c.kind == PC_MODEL_VLM && v->vision.F == 32 && v->projector.in == 8);
    CHECK(v->projector.out == 12 && v->projector.depth == 2 && v->decoder.G == 2);
    CHECK(v->decoder.D == 6 && v->decoder.F == 32 && v->feature_layer == -1);
    CHECK(v->vision.class_token && !v->keep_class && v->decoder.rope.theta == 1e4);
    CHECK(pc_vlm_rows_per_image(v) == 4 && pc_vlm_stop(v) == 1);

    CHECK(!read_text(&c, "{\"kind\":\"vlm\",\"decoder\":{\"V\":20}}"));
    CHECK(c.vlm.vision.L == 0 && pc_vlm_rows_per_image(&c.vlm) == 0);

    CHECK(!read_text(&c, "{\"kind\":\"clip\",\"loss\":\"sigmoid\",\"vision\":{\"head\":\"map\"},"
                         "\"text\":{\"V\":30,\"eot_id\":2}}"));
    CHECK(c.clip.vision.E == 768 && c.clip.text.E == 768 && c.clip.text.F == 2048);
    CHECK(c.clip.init_bias == -10.0 && fabs(c.clip.init_scale - log(10.0)) < 1e-15);
    CHECK(c.clip.vision.head == PC_HEAD_MAP && c.clip.vision.head_F == 3072);
    CHECK(!read_text(&c, "{\"kind\":\"clip\",\"text\":{\"V\":30,\"eot_id\":2}}"));
    CHECK(c.clip.init_bias == 0.0 && c.clip.init_scale == 2.6592);
    CHECK(c.clip.vision.head == PC_HEAD_CLASS);
}

static void test_errors(void)
{
    refused("[]", "model: []; expected an object {\"kind\": ...}");
    refused("{}", "kind: is missing; expected clip or vlm");
    refused("{\"kind\":\"clop\"}", "kind: \"clop\"; expected clip or vlm");
    refused("{\"kind\":\"vlm\",\"decoder\":{}}",
            "decoder.V: is missing (vocabulary; a recipe takes it from the tokenizer)");
    refused("{\"kind\":\"vlm\",\"visoin\":{},\"decoder\":{\"V\":9}}",
            "visoin: there is no such key; did you mean 'vision'?");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"qknorm\":true}}",
            "decoder.qknorm: there is no such key; did you mean 'qk_norm'?");
    refused("{\"kind\":\"clip\",\"decoder\":{}}", "decoder: there is no such key");
    refused("{\"kind\":\"vlm\",\"decoder\":7}", "decoder: 7; expected an object of keys");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":\"9\"}}",
            "decoder.V: \"9\"; expected a whole number in 1 .. 10000000");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9.5}}",
            "decoder.V: 9.5; expected a whole number in 1 .. 10000000");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":0}}",
            "decoder.V: 0; expected a whole number in 1 .. 10000000");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"eps\":2}}",
            "decoder.eps: 2; expected a number in 1e-12 .. 0.1");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"tied\":1}}",
            "decoder.tied: 1; expected true or false");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"rope_scaling\":\"lama3\"}}",
            "decoder.rope_scaling: \"lama3\"; expected one of none, linear, llama3, yarn, dynamic "
            "(did you mean "
            "llama3?)");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"H\":8,\"G\":3}}",
            "decoder.G: 3 key heads do not divide decoder.H, 8");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"D\":5}}",
            "decoder.D: 5 is odd; rotary positions turn pairs");
    refused("{\"kind\":\"vlm\",\"projector\":{\"in\":9}," SMALL_VLM "}",
            "projector.in: 9; the tower (vision.C) is 8 wide");
    refused("{\"kind\":\"vlm\",\"projector\":{\"positions\":5}," SMALL_VLM "}",
            "projector.positions: 5; an image gives 4 rows");
    refused("{\"kind\":\"vlm\",\"feature_layer\":-3," SMALL_VLM "}",
            "feature_layer: -3 is not in -2 .. -1");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"T\":40},\"vision\":{\"patch\":32}}",
            "decoder.T: 40; an image alone takes 49");
    refused(
        "{\"kind\":\"vlm\",\"decoder\":{\"V\":9,\"rope_2d\":true,\"window\":4}}",
        "decoder.window: goes by positions that count rows, which decoder.rope_2d: true has not");
    refused("{\"kind\":\"vlm\",\"decoder\":{\"V\":9},\"vision\":{\"stem\":\"conv\",\"patch\":12}}",
            "vision.patch: 12; a conv stem needs 2, 4, 8, 16 or 32");
    refused("{\"kind\":\"clip\",\"vision\":{\"H\":5},\"text\":{\"V\":9}}",
            "vision.H: 5 heads do not divide vision.C, 768");
    refused("{\"kind\":\"clip\",\"vision\":{\"class_token\":false},\"text\":{\"V\":9}}",
            "vision.head: class needs vision.class_token: true");
    refused("{\"kind\":\"clip\",\"text\":{\"V\":9,\"eot_id\":9}}",
            "text.eot_id: 9 is no id of a vocabulary of 9");
    refused("{\"kind\":\"clip\",\"text\":{\"V\":9,\"E\":64}}",
            "vision.E: 768 and text.E: 64 must be the same");
}

static void round_trip(const char *text)
{
    pc_model_config a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    CHECK(!read_text(&a, text));
    json_t *json = pc_model_config_to_json(&a);
    CHECK(json && !pc_model_config_from_json(&b, json));
    json_t *again = pc_model_config_to_json(&b);
    CHECK(json_equal(json, again));
    char *first = json_dumps(json, 0), *second = json_dumps(again, 0);
    CHECK(first && second && !strcmp(first, second)); // the same text, in the same order
    free(first);
    free(second);
    json_decref(json);
    json_decref(again);
}

/* A description made in code, what it does not use left at zero, is read back too. */
static void test_made(void)
{
    pc_model_config c = {.kind = PC_MODEL_VLM}, back;
    c.vlm.vision = (pc_vision_config){
        .L = 1, .C = 8, .H = 2, .F = 16, .image_size = 8, .patch = 4, .eps = 1e-5};
    c.vlm.projector = (pc_projector_config){.depth = 1, .in = 8, .out = 8};
    c.vlm.decoder = (pc_decoder_config){.V = 9,
                                        .C = 8,
                                        .L = 1,
                                        .H = 2,
                                        .G = 1,
                                        .D = 4,
                                        .F = 16,
                                        .T = 16,
                                        .eps = 1e-6,
                                        .rope = {.theta = 1e4}};
    c.vlm.feature_layer = -1;
    c.vlm.image_id = -200;
    for (int kind = 0; kind < 2; kind++) {
        json_t *json = pc_model_config_to_json(&c);
        CHECK(!pc_model_config_from_json(&back, json));
        json_decref(json);
        c = (pc_model_config){.kind = PC_MODEL_CLIP};
        c.clip.vision = back.vlm.vision;
        c.clip.vision.head = PC_HEAD_MEAN;
        c.clip.vision.E = c.clip.text.E = 5;
        c.clip.text = (pc_text_config){
            .V = 9, .T = 4, .C = 8, .H = 2, .F = 16, .L = 1, .E = 5, .eps = 1e-5, .pad_id = -1};
    }
    CHECK(back.kind == PC_MODEL_CLIP && back.clip.vision.head_F == 0);
}

/* Each key once, with help; a value written by it is read back. */
static int lines;
static void line(void *arg, const char *section, const char *key, const char *type, const char *def,
                 const char *range, const char *help)
{
    (void)arg;
    lines++;
    CHECK(section && *key && *type && *def && *range && *help);
}

static void test_model(void)
{
    pc_model_config c;
    pc_model m, replica;
    CHECK(!read_text(&c, "{\"kind\":\"vlm\"," SMALL_VLM "}"));
    CHECK(!pc_model_open(&m, &c, PC_F32, true));
    pc_params_init(&m.params, 3);
    CHECK(pc_params_find(&m.params, "vision.stem.0.weight"));
    CHECK(pc_params_find(&m.params, "decoder.blocks.0.mlp.gate_up.weight")->dim[0] == 64);
    CHECK(!pc_params_find(&m.params, "vision.positions")->decay);
    CHECK(pc_params_find(&m.params, "decoder.tokens")->decay);
    CHECK(!pc_params_find(&m.params, "decoder.norm_final.weight")->decay);
    CHECK(!pc_params_nonfinite(&m.params, false));
    static const struct {
        const char *name;
        bool hidden;
        int parts;
        int64_t last; // rows of the last part
    } kinds[] = {{"vision.stem.0.weight", false, 1, 8},
                 {"vision.positions", false, 1, 5},
                 {"vision.blocks.0.attn.qkv.weight", true, 3, 8},
                 {"vision.blocks.0.mlp.fc1.weight", true, 1, 32},
                 {"projector.linear.0.weight", true, 1, 12},
                 {"projector.linear.0.bias", false, 1, 12},
                 {"decoder.tokens", false, 1, 20},
                 {"decoder.head", false, 1, 20},
                 {"decoder.blocks.0.mlp.gate_up.weight", true, 2, 32},
                 {"decoder.blocks.0.norm1.weight", false, 1, 12}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const pc_param *q = pc_params_find(&m.params, kinds[i].name);
        CHECK(q && q->hidden == kinds[i].hidden && q->parts == kinds[i].parts);
        CHECK(q && q->part_rows[q->parts - 1] == kinds[i].last);
    }
    CHECK(pc_params_train(&m.params, "vision.", false) > 0);
    CHECK(pc_params_train(&m.params, "nothing.", false) == 0);

    CHECK(!pc_model_replicate(&replica, &m));
    pc_arena grads;
    CHECK(!pc_arena_open(&grads, "gradients", pc_params_bytes(&replica.params, PC_F32, true)));
    pc_params_bind_grads(&replica.params, &grads, PC_F32); // exactly as many bytes as stated
    CHECK(grads.used == grads.size);
    for (int i = 0; i < m.params.count; i++) {
        const pc_param *a = &m.params.list[i], *b = &replica.params.list[i];
        CHECK(a->weight->w.data == b->weight->w.data && a->trainable == b->trainable);
        CHECK(a->weight != b->weight && pc_present(b->weight->g) == b->trainable);
    }
    CHECK(replica.vlm.decoder.rope.cos_table.data == m.vlm.decoder.rope.cos_table.data);
    pc_param *norm = pc_params_find(&m.params, "decoder.norm_final.weight");
    ((float *)norm->weight->w.data)[3] = INFINITY;
    CHECK(pc_params_nonfinite(&m.params, false) == norm);
    pc_model_close(&replica);
    pc_model_close(&m);
    pc_arena_close(&grads);
    pc_model_close(&m);
}

/* Initial values depend on the seed and the parameter alone, and have the spread they state. */
static void test_init(void)
{
    pc_model_config c;
    pc_model a, b;
    CHECK(!read_text(&c, "{\"kind\":\"vlm\",\"decoder\":{\"V\":500,\"C\":64,\"std\":0.02}}"));
    CHECK(!pc_model_open(&a, &c, PC_F32, true) && !pc_model_open(&b, &c, PC_F64, true));
    pc_params_init(&a.params, 5);
    pc_params_init(&b.params, 5);
    for (int i = 0; i < a.params.count; i++) {
        const pc_tensor x = a.params.list[i].weight->w, y = b.params.list[i].weight->w;
        double sum = 0.0;
        for (int64_t k = 0; k < pc_numel(x); k++) {
            const float v = ((const float *)x.data)[k];
            CHECK(v == (float)((const double *)y.data)[k]);
            sum += (double)v * (double)v;
        }
        if (x.rank < 2) continue;
        const double std = sqrt(sum / (double)pc_numel(x));
        CHECK(fabs(std - 0.02) < 0.02 * 5.0 / sqrt(2.0 * (double)pc_numel(x)));
    }
    pc_model_close(&a);
    pc_model_close(&b);
}

int main(void)
{
    test_defaults();
    test_errors();
    round_trip("{\"kind\":\"vlm\"," SMALL_VLM "}");
    round_trip("{\"kind\":\"vlm\",\"decoder\":{\"V\":20,\"rope_scaling\":\"llama3\"}}");
    round_trip(
        "{\"kind\":\"vlm\",\"decoder\":{\"V\":20,\"rope_scaling\":\"yarn\",\"rope_factor\":4,"
        "\"rope_attn_factor\":1.5,\"rope_beta_fast\":16,\"rope_ramp_exact\":true}}");
    round_trip(
        "{\"kind\":\"vlm\",\"decoder\":{\"V\":20,\"rope_scaling\":\"dynamic\",\"rope_factor\":2}}");
    round_trip("{\"kind\":\"clip\",\"text\":{\"V\":30,\"eot_id\":2}}");
    round_trip(
        "{\"kind\":\"clip\",\"loss\":\"sigmoid\",\"vision\":{\"stem\":\"conv\",\"eps\":1e-7},"
        "\"text\":{\"V\":30,\"pad_id\":1,\"pad_to_context\":true,\"pool\":\"last\"}}");
    pc_model_config_help(line, NULL);
    CHECK(lines > 60);
    test_made();
    test_model();
    test_init();
    return check_report("model descriptions");
}
