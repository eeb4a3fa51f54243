/*
 * export_gguf.c - a model as a pair of GGUF files, held against the source.
 */
#include "checkpoints/commands/export.h"

#include "checkpoints/commands/common.h"
#include "checkpoints/gguf_export.h"
#include "model/core/file.h"
#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pc_status read_origin(void *arg, float *out, const char *name, int64_t at, int64_t count)
{
    return pc_supply_read(arg, out, name, at, count);
}

// The template among the carried files: chat_template.jinja, or the key in tokenizer_config.json. malloc'ed.
static char *chat_template(const pc_native_text *t)
{
    const pc_native_file *f = pc_native_find_file(t, "chat_template.jinja");
    if (f) return strdup((const char *)f->data);
    json_t *json = NULL;
    char *text = NULL;
    if (!pc_hf_carried_json(&json, t, "tokenizer_config.json")) {
        const char *s = json_string_value(json_object_get(json, "chat_template"));
        text = s ? strdup(s) : NULL;
    }
    json_decref(json);
    return text;
}

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

// Letters, digits, dots and dashes of the name.
static void plain_name(char *out, size_t size, const char *name)
{
    size_t n = 0;
    for (const char *p = name; *p && n + 1 < size; p++)
        out[n++] = isalnum((unsigned char)*p) || *p == '.' || *p == '-' || *p == '_' ? *p : '-';
    out[n] = '\0';
    if (!n || out[0] == '.') snprintf(out, size, "model");
}

static pc_status name_files(char *text, char *eyes, size_t size, const convert_request *r,
                            const pc_card *card, const char *type)
{
    char name[200], upper[16];
    size_t n = 0;
    for (; type[n] && n + 1 < sizeof upper; n++) upper[n] = (char)toupper((unsigned char)type[n]);
    upper[n] = '\0';
    plain_name(name, sizeof name, card->name);
    int a, b;
    if (ends_in(r->out, ".gguf")) {
        const char *slash = strrchr(r->out, '/'), *base = slash ? slash + 1 : r->out;
        a = snprintf(text, size, "%s", r->out);
        b = snprintf(eyes, size, "%.*smmproj-%s", (int)(base - r->out), r->out, base);
    } else {
        const pc_status st = pc_make_dirs(r->out);
        if (st) return st;
        a = snprintf(text, size, "%s/%s-%s.gguf", r->out, name, upper);
        b = snprintf(eyes, size, "%s/mmproj-%s-%s.gguf", r->out, name, upper);
    }
    if (a >= (int)size || b >= (int)size) return pc_fail(PC_ERR_INPUT, "path is too long");
    if (pc_file_exists(text) || pc_file_exists(eyes))
        return pc_fail(PC_ERR_INPUT, "'%s' or '%s' is there already", text, eyes);
    return PC_OK;
}

// What a single tensor may differ by: that of the coarsest type in the file. Blocks of 4 bits keep a normal
// distribution to 9 % (seen: 0.107 at worst), of 5 to 5 %, of 6 to 2 %, of 8 to 0.6 %.
static pc_verify_limits limits_of(const pc_gguf_store *store)
{
    pc_verify_limits l = pc_verify_type(PC_F16);
    if (store->type->id == PC_Q_F32) l = pc_verify_type(PC_F32);
    if (store->type->id == PC_Q_BF16) {
        l = pc_verify_type(PC_BF16);
        l.least = 0x1p-25; // the convolution of patches is F16 all the same
    }
    if (store->type->block > 1) {
        const double bits = 8.0 * (double)store->type->bytes / (double)store->type->block;
        l.tensor = bits < 5.0 ? 0.16 : bits < 6.1 ? 0.1 : bits < 7.0 ? 0.05 : 0.02;
    }
    l.logits = pc_gguf_store_error(store);
    return l;
}

// Two towers: the file has the vision tower alone, which is not a model that answers. Its tensors are compared.
static pc_status verify_tower(pc_verify_report *r, pc_supply *o, const char *path,
                              const pc_verify_limits *l)
{
    pc_gguf_model m;
    pc_status st = pc_gguf_model_open(&m, path, "");
    for (int i = 0; i < m.aliases.count && !st; i++) {
        const pc_alias *a = &m.aliases.list[i];
        const pc_param *p = pc_params_find(&o->shape.params, a->ours);
        const int64_t n = pc_alias_numel(a);
        float *x = malloc((size_t)(2 * n + 1) * sizeof *x);
        int64_t row = 1;
        if (!p || !x) {
            free(x);
            st = p ? pc_fail(PC_ERR_MEMORY, "tensor '%s'", a->theirs)
                   : pc_fail(PC_ERR_FORMAT, "the source has no parameter '%s'", a->ours);
            break;
        }
        for (int k = 1; k < p->rank; k++) row *= p->dim[k];
        st = pc_gguf_model_read(x, &m, i);
        if (!st) st = pc_supply_read(o, x + n, a->ours, a->row * row, a->count);
        double difference = 0.0, size = 0.0;
        for (int64_t k = 0; k < a->count && !st; k++) {
            const double d = (double)x[a->offset + k] - (double)x[n + k];
            difference += d * d;
            size += (double)x[n + k] * (double)x[n + k];
        }
        const double relative = sqrt(difference / fmax(size, 1e-300));
        const double limit = fmax(l->tensor, fmax(l->number, 0x1p-11));
        r->parameters++;
        r->exact += difference == 0.0;
        if (relative > r->worst_tensor) {
            r->worst_tensor = relative;
            snprintf(r->worst_name, sizeof r->worst_name, "%s", a->ours);
        }
        if (!st && !(relative <= limit))
            st = pc_fail(PC_ERR_FORMAT, "'%s' differs by %.3g (relative), its type explains %.3g",
                         a->ours, relative, limit);
        free(x);
    }
    pc_gguf_model_close(&m);
    return pc_context(st, "verifying '%s'", path);
}

static pc_gguf_source source_of(pc_supply *o, const pc_card *card, const char *template)
{
    const pc_bundle *b = &o->bundle;
    const char *layout = b->template ? pc_template_text(b->template) : NULL;
    const bool own = layout && pc_template_is_source(layout);
    return (pc_gguf_source){
        .config = &o->shape.config,
        .read = read_origin,
        .arg = o,
        .bos = b->tokenizer ? pc_tokenizer_bos(b->tokenizer) : -1,
        .eos = b->tokenizer ? pc_tokenizer_eos(b->tokenizer) : -1,
        .pad = b->tokenizer ? pc_tokenizer_pad(b->tokenizer) : -1,
        .chat_template = template ? template
                         : own    ? layout
                                  : NULL,
        .template_name = own ? NULL : layout,
        .image = b->has_image ? &b->image : NULL,
        .about = {.name = card->name,
                  .license = card->license,
                  .base_models = card->base,
                  .base_model_count = card->base_count,
                  .datasets = card->datasets,
                  .dataset_count = card->dataset_count},
    };
}

pc_status convert_gguf(pc_supply *o, const convert_request *r, const pc_card *card)
{
    char text[PATH_MAX], eyes[PATH_MAX];
    const pc_model_config *c = &o->shape.config;
    const bool decodes = c->kind == PC_MODEL_VLM, sees = !decodes || c->vlm.vision.L > 0;
    const pc_verify_mode verify = convert_verify_mode(r->verify);
    const bool made = !pc_is_dir(r->out); // and is not left behind empty
    pc_gguf_store store;
    pc_verify_report report = {0};
    pc_status st = pc_gguf_store_named(&store, strcmp(r->dtype, "source") ? r->dtype : "F16");
    if (st || (st = name_files(text, eyes, sizeof text, r, card,
                               strcmp(r->dtype, "source") ? r->dtype : "F16")))
        return st;
    store.quantize_tower = r->tower;
    char *json = o->bundle.tokenizer ? pc_tokenizer_json(o->bundle.tokenizer) : NULL;
    char *template = chat_template(&o->bundle.text);
    pc_gguf_source s = source_of(o, card, template);
    s.tokenizer_json = json;
    s.tokenizer_size = json ? strlen(json) : 0;
    st = pc_gguf_export(decodes ? text : NULL, sees ? eyes : NULL, &s, &store);
    const pc_verify_limits l = limits_of(&store);
    if (!st && decodes) st = pc_verify(&report, o, text, &l, verify, (uint64_t)r->seed);
    if (!st && !decodes && verify != PC_VERIFY_NONE) st = verify_tower(&report, o, eyes, &l);
    if (st) {
        if (decodes) unlink(text);
        if (sees) unlink(eyes);
        if (made) rmdir(r->out);
    } else {
        convert_done(decodes ? text : eyes, &report);
        if (decodes && sees) printf("%s: its eyes\n", eyes);
    }
    free(json);
    free(template);
    return st;
}
