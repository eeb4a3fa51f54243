/*
 * inspect.c - percept-convert inspect: a table of tensors, totals, and what does not belong together.
 *
 * Each format is read into one JSON report; the report is printed as it is or as a table:
 *
 *   {"path", "format", "family", "kind", "note", "step", "texts" and "files": {name: bytes}, "metadata": {key: value},
 *    "tensors": [{"name", "dtype", "shape", "bytes", "trained" or "ours"}],
 *    "parts": {"vision": numbers, ...}, "count", "numbers", "bytes",
 *    "missing": [names], "misshapen": [names], "surplus": [names]}
 *
 * Keys that mean nothing for a format are absent. Differences are a finding, not a failure: exit status 0.
 */
#include "checkpoints/commands/commands.h"

#include "checkpoints/adapters.h"
#include "checkpoints/gguf_model.h"
#include "checkpoints/hf.h"
#include "checkpoints/native.h"
#include "checkpoints/peft.h"
#include "checkpoints/numbers.h"
#include "model/core/cli.h"
#include "model/core/file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- building the report ---- */

static pc_status out_of_memory(void)
{
    return pc_fail(PC_ERR_MEMORY, "report");
}

// Takes the value; false when there was no memory for it.
static bool put(json_t *o, const char *key, json_t *value)
{
    return json_object_set_new_nocheck(o, key, value) == 0;
}

static json_t *list_of(json_t *report, const char *key)
{
    json_t *a = json_object_get(report, key);
    if (a) return a;
    return put(report, key, json_array()) ? json_object_get(report, key) : NULL;
}

static bool put_name(json_t *report, const char *key, const char *name)
{
    return json_array_append_new(list_of(report, key), json_string(name)) == 0;
}

static json_t *shape_json(int rank, const int64_t *dim)
{
    json_t *shape = json_array();
    for (int i = 0; i < rank; i++) json_array_append_new(shape, json_integer(dim[i]));
    return shape;
}

// One tensor, counted in the totals and in the part that the first word of `part` names.
static json_t *put_tensor(json_t *report, const char *name, const char *dtype, int rank,
                          const int64_t *dim, int64_t bytes, const char *part)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    json_t *t = json_pack("{s:s, s:s, s:o, s:I}", "name", name, "dtype", dtype, "shape",
                          shape_json(rank, dim), "bytes", (json_int_t)bytes);
    if (!t || json_array_append_new(list_of(report, "tensors"), t) != 0) return NULL;
    const char *const totals[] = {"count", "numbers", "bytes"};
    const int64_t more[] = {1, n, bytes};
    for (int i = 0; i < 3; i++) {
        const json_int_t before = json_integer_value(json_object_get(report, totals[i]));
        if (!put(report, totals[i], json_integer(before + more[i]))) return NULL;
    }
    if (part) {
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)strcspn(part, "."), part);
        json_t *parts = json_object_get(report, "parts");
        const json_int_t before = json_integer_value(json_object_get(parts, word));
        if (!parts && !put(report, "parts", json_object())) return NULL;
        if (!put(json_object_get(report, "parts"), word, json_integer(before + n))) return NULL;
    }
    return t;
}

static const char *kind_name(const pc_model_config *c)
{
    return c->kind == PC_MODEL_CLIP ? "clip" : "vlm";
}

/* ---- native ---- */

static bool put_texts(json_t *report, const pc_native_text *t)
{
    const struct {
        const char *name, *text;
    } texts[] = {{"model", t->model},         {"image", t->image},
                 {"tokenizer", t->tokenizer}, {"template", t->template_name},
                 {"recipe", t->recipe},       {"state", t->state},
                 {"source", t->source},       {"adapters", t->adapters}};
    json_t *sizes = json_object();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].text)
            put(sizes, texts[i].name, json_integer((json_int_t)strlen(texts[i].text)));
    json_t *state = t->state ? json_loads(t->state, 0, NULL) : NULL;
    const json_t *step = json_object_get(state, "step");
    bool ok = put(report, "texts", sizes);
    json_t *files = json_object();
    for (int i = 0; i < t->file_count; i++)
        put(files, t->files[i].name, json_integer((json_int_t)t->files[i].size));
    ok = put(report, "files", files) && ok;
    if (ok && json_is_integer(step))
        ok = put(report, "step", json_integer(json_integer_value(step)));
    json_decref(state);
    return ok;
}

static bool same_item(const pc_native_item *a, const pc_param *p)
{
    return a->rank == p->rank &&
           (!p->rank || !memcmp(a->dim, p->dim, (size_t)p->rank * sizeof *a->dim));
}

// Low-rank adapters are parameters too.
static pc_status adapt(pc_model *m, const char *text)
{
    pc_adapter_site *sites = NULL;
    int n = 0;
    double dropout;
    pc_status st = text ? pc_adapters_read_text(&sites, &n, &dropout, text) : PC_OK;
    if (!st && n) st = pc_model_adapt(m, sites, n, false);
    free(sites);
    return st;
}

// The file's parameters against the list of the model that the file describes.
static pc_status compare_native(json_t *report, const pc_native_text *text,
                                const pc_native_item *items, int64_t n)
{
    pc_model_config config;
    pc_model m = {0};
    const char *model = text->model;
    json_t *json = model ? json_loads(model, JSON_REJECT_DUPLICATES, NULL) : NULL;
    pc_status st = json ? pc_model_config_from_json(&config, json)
                        : pc_fail(PC_ERR_FORMAT, "no description of the model");
    json_decref(json);
    if (!st) st = pc_model_open(&m, &config, PC_F32, false);
    if (!st) st = adapt(&m, text->adapters);
    if (st) {
        pc_model_close(&m);
        return put(report, "note", json_string(pc_error_text())) ? PC_OK : out_of_memory();
    }

    bool ok = put(report, "kind", json_string(kind_name(&config)));
    bool *seen = calloc((size_t)m.params.count + 1, sizeof *seen);
    ok = ok && seen;
    for (int64_t i = 0; i < n && ok; i++) {
        const pc_param *p = pc_params_find(&m.params, items[i].name);
        if (p) seen[p - m.params.list] = true;
        if (!p)
            ok = put_name(report, "surplus", items[i].name);
        else if (!same_item(&items[i], p))
            ok = put_name(report, "misshapen", items[i].name);
    }
    for (int i = 0; i < m.params.count && ok; i++)
        if (!seen[i]) ok = put_name(report, "missing", m.params.list[i].name);
    free(seen);
    pc_model_close(&m);
    return ok ? PC_OK : out_of_memory();
}

static pc_status inspect_native(json_t *report, const char *path)
{
    pc_native_text text = {0};
    pc_native_item *items = NULL;
    int64_t n = 0;
    pc_status st;
    if ((st = pc_native_read_text(&text, path)) || (st = pc_native_list(&items, &n, path)))
        goto out;
    bool ok = put(report, "format", json_string("native")) && put_texts(report, &text);
    for (int64_t i = 0; i < n && ok; i++) {
        const pc_native_item *x = &items[i];
        int64_t bytes = (int64_t)pc_dtype_size(x->dtype);
        for (int k = 0; k < x->rank; k++) bytes *= x->dim[k];
        json_t *t =
            put_tensor(report, x->name, pc_dtype_text(x->dtype), x->rank, x->dim, bytes, x->name);
        ok = t && put(t, "trained", json_boolean(x->trained));
    }
    st = ok ? compare_native(report, &text, items, n) : out_of_memory();
out:
    pc_native_list_close(items, n);
    pc_native_text_close(&text);
    return st;
}

/* ---- safetensors and directories ---- */

// The alias of a tensor, or NULL.
static const pc_alias *alias_of(const pc_hf_match *m, const char *name)
{
    for (int i = 0; m && i < m->aliases.count; i++)
        if (!strcmp(m->aliases.list[i].theirs, name)) return &m->aliases.list[i];
    return NULL;
}

static pc_status put_entries(json_t *report, const pc_safetensors *s, const pc_hf_match *m)
{
    for (int64_t i = 0; i < pc_safetensors_count(s); i++) {
        const pc_st_entry *e = pc_safetensors_at(s, i);
        const pc_alias *a = alias_of(m, e->name);
        json_t *t = put_tensor(report, e->name, e->dtype, e->rank, e->dim, (int64_t)e->bytes,
                               a ? a->ours : NULL);
        if (!t || (a && !put(t, "ours", json_string(a->ours)))) return out_of_memory();
    }
    return PC_OK;
}

static pc_status inspect_file(json_t *report, const char *path)
{
    pc_safetensors *s = NULL;
    pc_status st = pc_safetensors_open(&s, path);
    const bool own = strstr(path, ".safetensors") != NULL;
    if (!st && !put(report, "format", json_string(own ? "safetensors" : "pytorch")))
        st = out_of_memory();
    if (!st) st = put_entries(report, s, NULL);
    pc_safetensors_close(s);
    return st;
}

static pc_status put_match(json_t *report, const pc_hf_match *m, const pc_safetensors *s)
{
    bool ok = true;
    for (int64_t i = 0; i < m->missing_count && ok; i++)
        ok = put_name(report, "missing", m->aliases.list[m->missing[i]].theirs);
    for (int64_t i = 0; i < m->misshapen_count && ok; i++)
        ok = put_name(report, "misshapen", m->aliases.list[m->misshapen[i]].theirs);
    for (int64_t i = 0; i < m->surplus_count && ok; i++)
        ok = put_name(report, "surplus", pc_safetensors_at(s, m->surplus[i])->name);
    return ok ? PC_OK : out_of_memory();
}

// Of a family that is not known the tensors are still worth listing.
static pc_status inspect_dir(json_t *report, const char *dir)
{
    pc_safetensors *s = NULL;
    pc_hf_config c = {0};
    pc_hf_match m = {0};
    bool ok = put(report, "format", json_string("huggingface"));
    pc_status st = pc_safetensors_open_dir(&s, dir);
    if (st) return st;
    if (pc_hf_config_open(&c, dir)) {
        ok = ok && put(report, "note", json_string(pc_error_text()));
    } else {
        ok = ok && put(report, "family", json_string(c.family->name)) &&
             put(report, "kind", json_string(kind_name(&c.model)));
        st = pc_hf_match_open(&m, c.family, &c.model, s);
    }
    if (!st) st = ok ? put_entries(report, s, c.family ? &m : NULL) : out_of_memory();
    if (!st) st = put_match(report, &m, s);
    pc_hf_match_close(&m);
    pc_hf_config_close(&c);
    pc_safetensors_close(s);
    return st;
}

/* ---- PEFT adapters ---- */

static pc_status inspect_peft(json_t *report, const char *dir)
{
    pc_peft p;
    pc_status st = pc_peft_open(&p, dir);
    if (st) return st;
    const pc_peft_config *c = &p.config;
    char numbers[96];
    snprintf(numbers, sizeof numbers, "r %lld, alpha %g%s, dropout %g", (long long)c->r, c->alpha,
             c->rslora ? " (rsLoRA)" : "", c->dropout);
    bool ok = put(report, "format", json_string("peft")) &&
              put(report, "metadata",
                  json_pack("{s:s, s:s*, s:s*, s:I}", "lora", numbers, "base", c->base, "task_type",
                            c->task_type, "adapted modules", (json_int_t)p.count));
    st = ok ? put_entries(report, p.file, NULL) : out_of_memory();
    pc_peft_close(&p);
    return st;
}

/* ---- GGUF ---- */

static pc_status put_metadata(json_t *report, const pc_gguf *g)
{
    json_t *all = json_object();
    bool ok = all != NULL;
    for (int64_t i = 0; i < pc_gguf_key_count(g) && ok; i++) {
        char text[160], key[256];
        const pc_gguf_value v = pc_gguf_key_at(g, i);
        snprintf(key, sizeof key, "%.*s", (int)(v.key.size < 200 ? v.key.size : 200), v.key.text);
        ok = put(all, key, json_string(pc_gguf_value_text(&v, text, sizeof text)));
    }
    if (!ok) json_decref(all);
    return ok && put(report, "metadata", all) ? PC_OK : out_of_memory();
}

static const pc_alias *gguf_alias(const pc_gguf_model *m, const char *name)
{
    for (int i = 0; i < m->aliases.count; i++)
        if (!strcmp(m->aliases.list[i].theirs, name)) return &m->aliases.list[i];
    return NULL;
}

// Names in a file may be any bytes: what is no text is shown as such.
static pc_status put_gguf_tensors(json_t *report, const pc_gguf *g, const pc_gguf_model *m)
{
    for (int64_t i = 0; i < pc_gguf_count(g); i++) {
        const pc_gguf_tensor t = pc_gguf_at(g, i);
        const pc_alias *a = gguf_alias(m, t.name);
        json_t *probe = json_string(t.name);
        json_t *row = put_tensor(report, probe ? t.name : "(not UTF-8)", t.type->name, t.rank,
                                 t.dim, (int64_t)t.bytes, a ? a->ours : NULL);
        json_decref(probe);
        if (!row || (a && !put(row, "ours", json_string(a->ours)))) return out_of_memory();
    }
    return PC_OK;
}

static pc_status put_gguf_match(json_t *report, const pc_gguf_model *m)
{
    pc_gguf_match x = {0};
    const pc_status st = pc_gguf_match_open(&x, m);
    bool ok = true;
    for (int64_t i = 0; i < x.missing_count && ok; i++)
        ok = put_name(report, "missing", m->aliases.list[x.missing[i]].theirs);
    for (int64_t i = 0; i < x.misshapen_count && ok; i++)
        ok = put_name(report, "misshapen", m->aliases.list[x.misshapen[i]].theirs);
    for (int64_t i = 0; i < x.surplus_count && ok; i++)
        ok = put_name(report, "surplus", pc_gguf_model_tensor(m, x.surplus[i]).name);
    pc_gguf_match_close(&x);
    return st ? st : ok ? PC_OK : out_of_memory();
}

// Of an architecture that is not known the keys and tensors are still worth listing.
static pc_status inspect_gguf(json_t *report, const char *path)
{
    pc_gguf *g = NULL;
    pc_gguf_model m = {0};
    char *arch = NULL;
    pc_status st = pc_gguf_open(&g, path);
    if (st) return st;
    bool ok = put(report, "format", json_string("gguf"));
    if (!pc_gguf_text(&arch, g, "general.architecture") && arch)
        ok = ok && put(report, "family", json_string(arch));
    free(arch);
    // Beside the file nothing is looked for: this one is what was asked about.
    const bool known = pc_gguf_count(g) && !pc_gguf_model_open(&m, path, "");
    if (known)
        ok = ok && put(report, "kind", json_string(m.text ? "text" : "mmproj"));
    else if (!pc_gguf_count(g))
        ok = ok && put(report, "note", json_string("no tensors: a vocabulary alone"));
    else
        ok = ok && put(report, "note", json_string(pc_error_text()));
    st = ok ? put_metadata(report, g) : out_of_memory();
    if (!st) st = put_gguf_tensors(report, g, &m);
    if (!st && known) st = put_gguf_match(report, &m);
    pc_gguf_model_close(&m);
    pc_gguf_close(g);
    return st;
}

/* ---- which format ---- */

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static pc_status inspect(json_t *report, const char *path)
{
    unsigned char magic[8] = {0};
    if (pc_is_dir(path)) {
        char config[4400]; // a merged model may lie beside its adapters
        snprintf(config, sizeof config, "%s/config.json", path);
        return pc_peft_is_dir(path) && !pc_file_exists(config) ? inspect_peft(report, path)
                                                               : inspect_dir(report, path);
    }
    if (ends_in(path, ".safetensors") || ends_in(path, ".safetensors.index.json"))
        return inspect_file(report, path);
    FILE *f = fopen(path, "rbe");
    if (!f) return pc_fail_errno("cannot open '%s'", path);
    const size_t n = fread(magic, 1, sizeof magic, f);
    fclose(f);
    if (n == 8 && !memcmp(magic, "\x89HDF\r\n\x1a\n", 8)) return inspect_native(report, path);
    if (ends_in(path, ".h5")) return pc_fail(PC_ERR_FORMAT, "'%s' is not an HDF5 file", path);
    if ((n >= 4 && !memcmp(magic, "GGUF", 4)) || ends_in(path, ".gguf"))
        return inspect_gguf(report, path);
    if (ends_in(path, ".bin.index.json") || ends_in(path, ".bin") || ends_in(path, ".pth") ||
        ends_in(path, ".pt"))
        return inspect_file(report, path);
    return pc_fail(
        PC_ERR_FORMAT,
        "'%s' is none of: a native checkpoint (.h5), .safetensors, .gguf, PyTorch's .bin "
        "or .pth, a model directory",
        path);
}

/* ---- printing ---- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

static json_int_t number_of(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static const char *shape_of(char *buf, size_t size, const json_t *tensor)
{
    const json_t *shape = json_object_get(tensor, "shape");
    size_t n = (size_t)snprintf(buf, size, "(");
    for (size_t i = 0; i < json_array_size(shape) && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? "," : "",
                              (long long)json_integer_value(json_array_get(shape, i)));
    if (n < size) snprintf(buf + n, size - n, ")");
    return buf;
}

// 1234567 as "1.23 M"; `base` 1000 for numbers; units of one letter.
static const char *short_number(char *buf, size_t size, double v)
{
    static const char *const units[] = {"", " k", " M", " G", " T"};
    int u = 0;
    for (; v >= 999.5 && u < 4; u++) v /= 1000.0;
    snprintf(buf, size, u ? "%.3g%s" : "%.0f%s", v, units[u]);
    return buf;
}

static void print_tensors(const json_t *report)
{
    const json_t *list = json_object_get(report, "tensors"), *t;
    size_t i;
    int width = 4;
    json_array_foreach((json_t *)(uintptr_t)list, i, t)
    {
        const int n = (int)strlen(text_of(t, "name"));
        if (n > width) width = n < 80 ? n : 80;
    }
    const bool native = !strcmp(text_of(report, "format"), "native");
    printf("%-*s  %-20s %-5s %8s  %s\n", width, "name", "shape", "type", "bytes",
           native                              ? "trained"
           : json_object_get(report, "family") ? "here"
                                               : "");
    json_array_foreach((json_t *)(uintptr_t)list, i, t)
    {
        char shape[128], bytes[16];
        const char *last = text_of(t, "ours");
        if (native) last = json_is_true(json_object_get(t, "trained")) ? "yes" : "no";
        printf("%-*s  %-20s %-5s %8s  %s\n", width, text_of(t, "name"),
               shape_of(shape, sizeof shape, t), text_of(t, "dtype"),
               short_number(bytes, sizeof bytes, (double)number_of(t, "bytes")), last);
    }
}

static void print_names(const json_t *report, const char *key, const char *what)
{
    const json_t *list = json_object_get(report, key), *name;
    size_t i;
    if (!json_array_size(list)) return;
    printf("%s (%zu):\n", what, json_array_size(list));
    json_array_foreach((json_t *)(uintptr_t)list, i, name)
        printf("  %s\n", json_string_value(name));
}

static void print_table(const json_t *report)
{
    char a[16], b[16];
    const char *key;
    json_t *v;
    printf("%s: %s", text_of(report, "path"), text_of(report, "format"));
    if (*text_of(report, "family")) printf(", family %s", text_of(report, "family"));
    if (*text_of(report, "kind")) printf(", %s", text_of(report, "kind"));
    if (json_object_get(report, "step"))
        printf(", step %lld", (long long)number_of(report, "step"));
    printf("\n");
    if (json_object_get(report, "texts")) {
        printf("texts:");
        json_object_foreach(json_object_get(report, "texts"), key, v)
            printf(" %s (%lld bytes)", key, (long long)json_integer_value(v));
        printf("\n");
    }
    if (json_object_size(json_object_get(report, "files"))) {
        printf("files:");
        json_object_foreach(json_object_get(report, "files"), key, v)
            printf(" %s (%lld bytes)", key, (long long)json_integer_value(v));
        printf("\n");
    }
    json_object_foreach(json_object_get(report, "metadata"), key, v) if (json_is_string(v))
        printf("%s = %s\n", key, json_string_value(v));
    else printf("%s = %lld\n", key, (long long)json_integer_value(v));
    printf("\n");
    print_tensors(report);
    printf("\n%lld tensors, %s numbers, %s bytes", (long long)number_of(report, "count"),
           short_number(a, sizeof a, (double)number_of(report, "numbers")),
           short_number(b, sizeof b, (double)number_of(report, "bytes")));
    const char *before = ": ";
    json_object_foreach(json_object_get(report, "parts"), key, v)
    {
        printf("%s%s %s", before, key, short_number(a, sizeof a, (double)json_integer_value(v)));
        before = ", ";
    }
    printf("\n");
    if (*text_of(report, "note")) printf("note: %s\n", text_of(report, "note"));
    print_names(report, "missing", "missing");
    print_names(report, "misshapen", "of another shape than the model's");
    print_names(report, "surplus", "surplus: not one of the model's");
}

static pc_status print_json(const json_t *report)
{
    char *text = json_dumps(report, JSON_INDENT(1));
    if (!text) return out_of_memory();
    puts(text);
    free(text);
    return PC_OK;
}

pc_status convert_inspect(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-convert inspect runs/quickstart/tune/checkpoints/best.h5",
        "percept-convert inspect clip-vit-base-patch32",
        "percept-convert inspect outputs.safetensors --json",
        "percept-convert inspect llava-v1.5-7b-Q4_K_M.gguf",
        NULL,
    };
    bool as_json = false;
    const pc_cli_flag flags[] = {
        {"json", PC_CLI_BOOL, &as_json, NULL, "the whole report as one JSON object", 0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-convert inspect",
        .usage = "FILE_OR_DIR",
        .about =
            "Lists what a checkpoint holds: its tensors with shapes, types and sizes, totals per "
            "part, and, where the model is described, what is missing or surplus. Reads native "
            "checkpoints (.h5), safetensors files and their indexes, GGUF files with their "
            "metadata, Hugging Face directories and PEFT adapters. Differences are reported with "
            "exit status 0; "
            "an unreadable file ends "
            "in 1.",
        .flags = flags,
        .flag_count = 1,
        .min_args = 1,
        .max_args = 1,
        .examples = examples,
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;

    json_t *report = json_pack("{s:s, s:I, s:I, s:I}", "path", args[0], "count", (json_int_t)0,
                               "numbers", (json_int_t)0, "bytes", (json_int_t)0);
    st = report ? inspect(report, args[0])
                : pc_fail(PC_ERR_INPUT, "'%s' is not valid UTF-8", args[0]);
    if (!st && as_json) st = print_json(report);
    if (!st && !as_json) print_table(report);
    json_decref(report);
    return st;
}
