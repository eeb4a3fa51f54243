/*
 * adapters.c - see adapters.h.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "checkpoints/adapters.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MATCH_MAX 100000u // steps of a user's pattern
#define SITES_MAX 65535

/* ---- from a PEFT folder ---- */

static pc_adapter_site site_of(const pc_peft_pair *x)
{
    pc_adapter_site s = {
        .row = x->row, .rows = x->O, .r = x->r, .alpha = x->alpha, .scale = x->scale};
    snprintf(s.weight, sizeof s.weight, "%s", x->ours);
    snprintf(s.module, sizeof s.module, "%s", x->module);
    return s;
}

static pc_status load_all(pc_model *m, const pc_peft *p)
{
    pc_adapter_site *sites = calloc((size_t)p->count + 1, sizeof *sites);
    if (!sites) return pc_fail(PC_ERR_MEMORY, "%lld adapters", (long long)p->count);
    for (int64_t i = 0; i < p->count; i++) sites[i] = site_of(&p->list[i]);
    pc_status st = p->count > SITES_MAX
                       ? pc_fail(PC_ERR_INPUT, "%lld adapters", (long long)p->count)
                       : pc_model_adapt(m, sites, (int)p->count, true);
    free(sites);
    for (int64_t i = 0; i < p->count && !st; i++) {
        const pc_peft_pair *x = &p->list[i];
        const pc_adapter *a = &m->adapters.list[i];
        st = pc_st_floats(a->A.w.data, x->A, x->r * x->I);
        if (!st) st = pc_st_floats(a->B.w.data, x->B, x->O * x->r);
    }
    return st;
}

pc_status pc_adapters_load(pc_model *m, const pc_family *f, const char *dir)
{
    pc_peft p;
    pc_status st = pc_peft_open(&p, dir);
    if (st) return st; // names the folder
    if (!f)
        st = pc_fail(PC_ERR_INPUT,
                     "a native checkpoint keeps no library's names to find its modules "
                     "by; give the published directory");
    if (!st) st = pc_peft_match(&p, f, &m->config);
    if (!st) st = load_all(m, &p);
    pc_peft_close(&p);
    return pc_context(st, "adapter '%s'", dir);
}

/* ---- text ---- */

char *pc_adapters_text(const pc_adapters *a, double dropout)
{
    json_t *list = json_array();
    for (int i = 0; i < a->count; i++) {
        const pc_adapter_site *s = &a->sites[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f}", "module", s->module,
                                        "weight", s->weight, "row", (json_int_t)s->row, "rows",
                                        (json_int_t)s->rows, "r", (json_int_t)s->r, "alpha",
                                        s->alpha, "scale", s->scale));
    }
    const bool whole = json_array_size(list) == (size_t)a->count;
    json_t *o = json_pack("{s:f, s:o}", "dropout", dropout, "list", list);
    char *text = o && whole ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return text;
}

static pc_status read_site(pc_adapter_site *s, const json_t *o)
{
    const char *module, *weight;
    json_int_t row, rows, r;
    json_error_t e;
    *s = (pc_adapter_site){0};
    if (json_unpack_ex((json_t *)(uintptr_t)o, &e, 0, "{s:s, s:s, s:I, s:I, s:I, s:F, s:F}",
                       "module", &module, "weight", &weight, "row", &row, "rows", &rows, "r", &r,
                       "alpha", &s->alpha, "scale", &s->scale))
        return pc_fail(PC_ERR_FORMAT, "%s", e.text);
    if (strlen(module) >= sizeof s->module || strlen(weight) >= sizeof s->weight)
        return pc_fail(PC_ERR_FORMAT, "a name of %zu characters", strlen(module) + strlen(weight));
    memcpy(s->module, module, strlen(module));
    memcpy(s->weight, weight, strlen(weight));
    s->row = row;
    s->rows = rows;
    s->r = r;
    return PC_OK;
}

static pc_status read_list(pc_adapter_site **out, int *count, const json_t *list)
{
    const size_t n = json_array_size(list);
    if (n > SITES_MAX) return pc_fail(PC_ERR_FORMAT, "%zu adapters", n);
    pc_adapter_site *sites = calloc(n + 1, sizeof *sites);
    pc_status st = sites ? PC_OK : pc_fail(PC_ERR_MEMORY, "%zu adapters", n);
    int64_t numbers = 0;
    for (size_t i = 0; i < n && !st; i++) {
        st = pc_context(read_site(&sites[i], json_array_get(list, i)), "adapter %zu", i);
        // A rank above what the matrix has is no mistake by itself; one that no file could hold is.
        if (!st && (sites[i].r > 1 << 16 || sites[i].r < 1))
            st = pc_fail(PC_ERR_FORMAT, "adapter %zu: rank %lld", i, (long long)sites[i].r);
        if (!st && (__builtin_mul_overflow(sites[i].r, sites[i].rows, &sites[i].rows) ||
                    __builtin_add_overflow(numbers, sites[i].rows, &numbers) || numbers < 0 ||
                    numbers > INT64_MAX / 16))
            st = pc_fail(PC_ERR_FORMAT, "adapter %zu: too many numbers", i);
        if (!st) sites[i].rows /= sites[i].r;
    }
    if (st) {
        free(sites);
        return st;
    }
    *out = sites;
    *count = (int)n;
    return PC_OK;
}

pc_status pc_adapters_read_text(pc_adapter_site **out, int *count, double *dropout,
                                const char *text)
{
    json_error_t e;
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &e), *list = NULL;
    pc_status st = PC_OK;
    *dropout = 0.0;
    *out = NULL;
    *count = 0;
    if (!o)
        st = pc_fail(PC_ERR_FORMAT, "line %d, column %d: %s", e.line, e.column, e.text);
    else if (json_unpack_ex(o, &e, 0, "{s:F, s:o}", "dropout", dropout, "list", &list))
        st = pc_fail(PC_ERR_FORMAT, "%s", e.text);
    else if (!json_is_array(list))
        st = pc_fail(PC_ERR_FORMAT, "'list' is no list");
    else if (!(*dropout >= 0.0 && *dropout < 1.0))
        st = pc_fail(PC_ERR_FORMAT, "'dropout' is %g; expected from 0 to below 1", *dropout);
    if (!st) st = read_list(out, count, list);
    json_decref(o);
    return pc_context(st, "text 'adapters'");
}

pc_status pc_adapters_from_text(pc_model *m, double *dropout, const char *text)
{
    pc_adapter_site *sites;
    int n;
    pc_status st = pc_adapters_read_text(&sites, &n, dropout, text);
    if (!st && n) st = pc_context(pc_model_adapt(m, sites, n, true), "text 'adapters'");
    free(sites);
    return st;
}

/* ---- names ---- */

pc_status pc_adapters_names(pc_aliases *out, const pc_model *m)
{
    const pc_adapters *a = &m->adapters;
    for (int i = 0; i < 2 * a->count; i++) {
        const pc_param *p = &m->params.list[a->first + i];
        const char *module = a->sites[i / 2].module;
        if (module[0])
            pc_alias_add(out, p->name, 0, p->rank, p->dim, "base_model.model.%s.lora_%c.weight",
                         module, i % 2 ? 'B' : 'A');
        else
            pc_alias_add(out, p->name, 0, p->rank, p->dim, "%s", p->name);
    }
    return out->status;
}

/* ---- modules ---- */

static pc_param *find(const pc_model *m, const char *name)
{
    return pc_params_find((pc_params *)(uintptr_t)&m->params, name);
}

// The family's names: every whole matrix that is rows of one of our linears.
static int from_family(pc_module *out, const pc_model *m, const pc_aliases *names)
{
    int n = 0;
    for (int i = 0; i < names->count; i++) {
        const pc_alias *a = &names->list[i];
        const size_t length = strlen(a->theirs), end = strlen(".weight");
        const pc_param *p = find(m, a->ours);
        if (!p || !p->linear || a->rank != 2 || a->offset || a->count != pc_alias_numel(a) ||
            length <= end || strcmp(a->theirs + length - end, ".weight") != 0 ||
            a->dim[1] != p->dim[1])
            continue;
        pc_adapter_site *s = &out[n].site;
        out[n++] = (pc_module){0};
        snprintf(s->weight, sizeof s->weight, "%s", a->ours);
        snprintf(s->module, sizeof s->module, "%.*s", (int)(length - end), a->theirs);
        s->row = a->row;
        s->rows = a->dim[0];
    }
    return n;
}

// What published models call our linears, part by part; NULL: as we do.
static const char *usual_name(const char *ours, const char *weight, int part)
{
    static const struct {
        const char *ours, *parts[3];
    } usual[] = {
        {"qkv", {"q_proj", "k_proj", "v_proj"}},
        {"gate_up", {"gate_proj", "up_proj", NULL}},
        {"down", {"down_proj", NULL, NULL}},
    };
    if (!strcmp(ours, "out")) return strncmp(weight, "decoder.", 8) ? "out_proj" : "o_proj";
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (!strcmp(ours, usual[i].ours) && part < 3) return usual[i].parts[part];
    return NULL;
}

static int from_ours(pc_module *out, const pc_model *m)
{
    int n = 0;
    for (int i = 0; i < m->params.count; i++) {
        const pc_param *p = &m->params.list[i];
        // What reads pixels is a convolution in published models.
        if (!p->linear || !strncmp(p->name, "vision.stem.", 12)) continue;
        const int whole = (int)(strlen(p->name) - strlen(".weight"));
        char path[PC_NAME_MAX];
        snprintf(path, sizeof path, "%.*s", whole, p->name);
        char *dot = strrchr(path, '.');
        const char *last = dot ? dot + 1 : path;
        int64_t row = 0;
        for (int k = 0; k < p->parts; row += p->part_rows[k++]) {
            const char *name = usual_name(last, p->name, k);
            pc_adapter_site *s = &out[n].site;
            out[n++] = (pc_module){0};
            snprintf(s->weight, sizeof s->weight, "%s", p->name);
            if (name)
                snprintf(s->module, sizeof s->module, "%.*s%s", (int)(last - path), path, name);
            else if (p->parts > 1)
                snprintf(s->module, sizeof s->module, "%s.%d", path, k);
            else
                snprintf(s->module, sizeof s->module, "%s", path);
            s->row = row;
            s->rows = p->part_rows[k];
        }
    }
    return n;
}

pc_status pc_modules_list(pc_module **out, int *count, const pc_model *m, const pc_family *f)
{
    pc_aliases names = {0};
    pc_status st = f ? f->aliases(&names, &m->config, f->modules) : PC_OK;
    const size_t most = (size_t)(f ? names.count : 3 * m->params.count);
    *count = 0;
    *out = st ? NULL : calloc(most + 1, sizeof **out);
    if (!st && !*out) st = pc_fail(PC_ERR_MEMORY, "list of %zu modules", most);
    if (!st) *count = f ? from_family(*out, m, &names) : from_ours(*out, m);
    pc_aliases_close(&names);
    return st;
}

/* ---- targets ---- */

static pc_status matches_whole(bool *fits, const char *pattern, const char *path)
{
    char text[1024];
    int error;
    PCRE2_SIZE where;
    *fits = false;
    if (snprintf(text, sizeof text, "^(?:%s)$", pattern) >= (int)sizeof text)
        return pc_fail(PC_ERR_INPUT, "a pattern of %zu characters", strlen(pattern));
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_DOLLAR_ENDONLY,
                                     &error, &where, NULL);
    if (!code) return pc_fail(PC_ERR_INPUT, "'%.100s' is no regular expression", pattern);
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int found = PCRE2_ERROR_NOMEMORY;
    if (data && limits) {
        pcre2_set_match_limit(limits, MATCH_MAX);
        pcre2_set_depth_limit(limits, MATCH_MAX);
        found = pcre2_match(code, (PCRE2_SPTR)path, strlen(path), 0, 0, data, limits);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
        return pc_fail(PC_ERR_INPUT, "pattern '%.100s' takes too long", pattern);
    *fits = found >= 0;
    return PC_OK;
}

static pc_status fits_target(bool *fits, const char *target, const char *path)
{
    const size_t n = strlen(path), k = strlen(target);
    *fits = !strcmp(target, "all-linear");
    if (*fits) return PC_OK;
    if (strpbrk(target, "*+?()[]|^$\\")) return matches_whole(fits, target, path);
    *fits = n >= k && !strcmp(path + n - k, target) && (n == k || path[n - k - 1] == '.');
    return PC_OK;
}

static pc_status nothing_fits(const pc_module *list, int count, const char *target)
{
    const char **names = calloc((size_t)count + 1, sizeof *names);
    if (!names) return pc_fail(PC_ERR_MEMORY, "list of %d names", count);
    for (int i = 0; i < count; i++) {
        const char *dot = strrchr(list[i].site.module, '.');
        names[i] = dot ? dot + 1 : list[i].site.module;
    }
    const char *near = pc_nearest(target, names, count);
    const pc_status st = pc_fail(PC_ERR_INPUT, "no linear is named '%.100s'%s%s%s (such as '%s')",
                                 target, near ? "; did you mean '" : "", near ? near : "",
                                 near ? "'?" : "", count ? list[0].site.module : "none");
    free(names);
    return st;
}

pc_status pc_modules_choose(pc_module *list, int count, const char *const *targets, int64_t n)
{
    for (int i = 0; i < count; i++) list[i].chosen = false;
    for (int64_t t = 0; t < n; t++) {
        int found = 0;
        for (int i = 0; i < count; i++) {
            bool fits;
            const pc_status st = fits_target(&fits, targets[t], list[i].site.module);
            if (st) return st;
            found += fits;
            list[i].chosen = list[i].chosen || fits;
        }
        if (!found) return nothing_fits(list, count, targets[t]);
    }
    return PC_OK;
}
