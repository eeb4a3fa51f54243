/*
 * seeds.c - writes a folder of seeds for every fuzz target: the smallest whole files that each format has.
 *
 *   fuzz_seeds DIR        DIR/safetensors/..., DIR/pickle/..., ... ; run from the project's root
 */
#include "checkpoints/gguf_export.h"
#include "checkpoints/native.h"
#include "checkpoints/safetensors.h"
#include "data/text/tokenizer.h"
#include "model/core/file.h"
#include "tests/fuzz/tiny.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *out;

static void must(pc_status st)
{
    if (!st) return;
    fprintf(stderr, "fuzz_seeds: %s\n", pc_error_text());
    exit(1);
}

static const char *place(const char *target, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", out, target);
    must(pc_make_dirs(path));
    snprintf(path, sizeof path, "%s/%s/%s", out, target, name);
    return path;
}

static void put(const char *target, const char *name, const void *data, size_t size)
{
    must(pc_file_write(place(target, name), data, size));
}

static void copy(const char *target, const char *name, const char *from)
{
    char *text;
    size_t size;
    if (!pc_file_exists(from)) return;
    must(pc_file_read(&text, &size, from, 1 << 22));
    put(target, name, text, size);
    free(text);
}

static void safetensors(void)
{
    const float f[6] = {1, 2, 3, 4, 5, 6};
    const pc_st_out list[] = {{"a.weight", PC_F32, 2, {2, 3}, f},
                              {"b", PC_BF16, 1, {2}, f},
                              {"c", PC_F16, 0, {0}, f},
                              {"d", PC_I64, 1, {0}, f},
                              {"e", PC_U8, 3, {1, 2, 1}, f}};
    must(pc_safetensors_write(place("safetensors", "five"), list, 5, NULL));
    must(pc_safetensors_write(place("safetensors", "none"), list, 0, "{\"a\":\"b\"}"));
}

static void native(void)
{
    tiny t;
    pc_native_text text = {.model = strdup("{\"kind\":\"vlm\"}"), .state = strdup("{\"step\":1}")};
    tiny_open(&t);
    must(pc_native_add_file(&text, "config.json", "{}", 2));
    must(pc_native_write(place("native", "whole"), &t.params, true, &text));
    must(pc_native_write(place("native", "bare"), &t.params, false, NULL));
    pc_native_text_close(&text);
    tiny_close(&t);
}

static void tokenizers(void)
{
    static const char *const texts[] = {"a cat and a cat and a hat", "the cat sat"};
    static const char *const specials[] = {"<image>", "</s>"};
    // SentencePiece: pieces {1: text, 2: score (float), 3: type}, then trainer {3: BPE, 35: byte fallback}.
    static const unsigned char model[] = "\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"
                                         "\n\x0c\n\x03<s>\x15\0\0\0\0\x18\x03"
                                         "\n\x0d\n\x04</s>\x15\0\0\0\0\x18\x03"
                                         "\n\x0a\n\x03\xe2\x96\x81\x15\0\0\0\0"
                                         "\n\x08\n\x01"
                                         "a\x15\0\0\x80\xbf"
                                         "\n\x08\n\x01"
                                         "b\x15\0\0\0\xc0"
                                         "\n\x09\n\x02"
                                         "ab\x15\0\0\0\0"
                                         "\x12\x02\x18\x02";
    pc_tokenizer *t;
    must(pc_tokenizer_train(&t, texts, 2, 270, specials, 2));
    char *json = pc_tokenizer_json(t);
    if (json) put("tokenizer_json", "trained", json, strlen(json));
    free(json);
    pc_tokenizer_close(t);
    put("tokenizer_model", "bpe", model, sizeof model - 1);
    copy("tokenizer_model", "reference", "../shared/goldens/tokenizers/llama_spm/tokenizer.model");
    static const char small[] =
        "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":4,\"content\":\"</s>\",\"special\":true,"
        "\"lstrip\":false,\"rstrip\":true,\"normalized\":false,\"single_word\":false}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
        "\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"
        "\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":{\"type\":"
        "\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"}"
        ","
        "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]},\"model\":{\"type\":"
        "\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1,"
        "\"b\":2,\"ab\":3},\"merges\":[\"a b\"]}}";
    put("tokenizer_json", "small", small, sizeof small - 1);
    copy("tokenizer_json", "unigram", "tests/goldens/tokenizers/json/tokenizer.json");
    copy("tokenizer_model", "unigram", "tests/goldens/tokenizers/siglip/spiece.model");
    copy("tokenizer_model", "unigram-bytes", "tests/goldens/tokenizers/bytes/tokenizer.model");
}

static void configs(void)
{
    copy("config", "clip", "tests/goldens/clip/config.json");
    copy("config", "siglip", "tests/goldens/siglip/config.json");
    copy("config", "llava", "tests/goldens/llava/config.json");
    static const char *const shared[] = {"text_tiny/llama3",     "text_tiny/mistral",
                                         "text_tiny/qwen2",      "llava_next_tiny",
                                         "llava_onevision_tiny", "qwen2_vl_tiny",
                                         "deepseek_vl_tiny",     "deepseek_vl_hybrid_tiny"};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        char from[256], name[32];
        snprintf(from, sizeof from, "../shared/goldens/%s/config.json", shared[i]);
        snprintf(name, sizeof name, "shared%zu", i);
        copy("config", name, from);
    }
    static const char original[] =
        "{\"model_type\":\"llava_llama\",\"mm_vision_tower\":\"openai/clip-vit-base-patch32\","
        "\"mm_projector_type\":\"mlp2x_gelu\",\"mm_vision_select_layer\":-2,\"hidden_size\":8,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"intermediate_size\":8,\"vocab_size\":"
        "9,"
        "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}";
    put("config", "original", original, sizeof original - 1);
}

// What torch.save({"w": float32 (2,3)}) writes.
static void pickles(void)
{
    static const unsigned char pickle[] =
        "\x80\x02}q\0X\x01\0\0\0wq\x01"
        "ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\0\0\0storage"
        "q\x03"
        "ctorch\nFloatStorage\nq\x04X\x01\0\0\0"
        "0q\x05X\x03\0\0\0cpuq\x06K\x06tq\x07QK\0K\x02K"
        "\x03\x86q\x08K\x03K\x01\x86q\t\x89"
        "ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.";
    static const char *const names[] = {"x/data.pkl", "x/byteorder", "x/data/0"};
    const unsigned char numbers[24] = {0, 0, 128, 63};
    const void *const data[] = {pickle, "little", numbers};
    const size_t sizes[] = {sizeof pickle - 1, 6, sizeof numbers};
    unsigned char file[1024] = {0}, directory[512] = {0};
    size_t n = 0, d = 0;
    for (int i = 0; i < 3; i++) {
        const size_t k = strlen(names[i]);
        unsigned char *p = file + n, *q = directory + d;
        memcpy(p, "PK\3\4", 4);
        p[18] = p[22] = (unsigned char)sizes[i];
        p[26] = (unsigned char)k;
        memcpy(p + 30, names[i], k);
        memcpy(p + 30 + k, data[i], sizes[i]);
        memcpy(q, "PK\1\2", 4);
        q[20] = q[24] = (unsigned char)sizes[i];
        q[28] = (unsigned char)k;
        q[42] = (unsigned char)n;
        q[43] = (unsigned char)(n >> 8);
        memcpy(q + 46, names[i], k);
        n += 30 + k + sizes[i];
        d += 46 + k;
    }
    unsigned char *end = file + n + d;
    memcpy(file + n, directory, d);
    memcpy(end, "PK\5\6", 4);
    end[8] = end[10] = 3;
    end[12] = (unsigned char)d;
    end[16] = (unsigned char)n;
    end[17] = (unsigned char)(n >> 8);
    put("pickle", "one", file, n + d + 22);
}

// A decoder of one block with a vocabulary, in two types.
static void ggufs(void)
{
    static const char *const texts[] = {"a cat and a hat"}, *const specials[] = {"<image>", "</s>"};
    static const char *const types[] = {"F32", "Q8_0", "Q4_K_M"};
    pc_tokenizer *t;
    pc_model model;
    pc_model_config config;
    json_t *json = json_loads("{\"kind\":\"vlm\",\"vision\":{\"L\":0},\"decoder\":{\"V\":262,"
                              "\"T\":16,\"L\":1,\"C\":32,\"H\":2,\"F\":32}}",
                              0, NULL);
    must(pc_model_config_from_json(&config, json));
    json_decref(json);
    must(pc_tokenizer_train(&t, texts, 1, 262, specials, 2));
    char *text = pc_tokenizer_json(t);
    must(pc_model_open(&model, &config, PC_F32, true));
    pc_params_init(&model.params, 1);
    for (int i = 0; i < 3; i++) {
        pc_gguf_store store;
        pc_gguf_source s = pc_gguf_source_params(&config, &model.params);
        s.tokenizer_json = text;
        s.tokenizer_size = text ? strlen(text) : 0;
        must(pc_gguf_store_named(&store, types[i]));
        must(pc_gguf_export(place("gguf", types[i]), NULL, &s, &store));
    }
    free(text);
    pc_model_close(&model);
    pc_tokenizer_close(t);
}

static void templates(void)
{
    static const char chatml[] =
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ 'You' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m.content is string %}{{ m.content | trim }}"
        "{% else %}{% for c in m['content'] %}{% if c.type == 'image' %}<image>{% else %}"
        "{{ c['text'] }}{% endif %}{% endfor %}{% endif %}{{- '<|im_end|>\n' -}}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    static const char macros[] =
        "{%- set ns = namespace(n=0) -%}{% macro f(x, y=1) %}{{ x ~ y }}{% endmacro %}"
        "{%- for m in messages[1:] -%}{% set ns.n = ns.n + 1 %}{{ f(m.role | upper, ns.n % 2) }}"
        "{{ raise_exception('no') if m.role == 'tool' else bos_token }}{%- endfor -%}"
        "{{ [1, 2.5, {'a': none}] | tojson }}{{ messages | length }}";
    put("template", "chatml", chatml, sizeof chatml - 1);
    put("template", "macros", macros, sizeof macros - 1);
    static const char *const shared[] = {"deepseek_vl",  "llama2_chat", "llama3",
                                         "llava_1_5_hf", "qwen2_vl",    "vicuna_v1_5"};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        char from[256];
        snprintf(from, sizeof from, "../shared/goldens/chat/templates/%s.jinja", shared[i]);
        copy("template", shared[i], from);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_seeds DIR\n");
        return 2;
    }
    out = argv[1];
    safetensors();
    pickles();
    native();
    tokenizers();
    configs();
    templates();
    ggufs();
    copy("gguf", "reference", "../shared/goldens/formats/sample.gguf");
    return 0;
}
