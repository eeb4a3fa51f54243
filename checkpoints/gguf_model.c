/*
 * gguf_model.c - see gguf_model.h: the pair, which tensor is which of ours, their numbers.
 */
#include "checkpoints/gguf_model.h"

#include "model/core/file.h"
#include "model/core/log.h"
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMED_MAX 6 // tensors named in one message

/* ---- the file beside ---- */

static bool ends_in(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static bool named_mmproj(const char *name)
{
    if (!ends_in(name, ".gguf")) return false;
    return !strncmp(name, "mmproj-", 7) || !strcmp(name, "mmproj.gguf") ||
           ends_in(name, "-mmproj.gguf");
}

// Characters that two names share at their beginning, the mark "mmproj-" left out.
static int alike(const char *mmproj, const char *text)
{
    int n = 0;
    if (!strncmp(mmproj, "mmproj-", 7)) mmproj += 7;
    while (mmproj[n] && mmproj[n] == text[n]) n++;
    return n;
}

// The width of what a projector writes; 0 when the file cannot be read.
static int64_t projector_width(const char *path)
{
    pc_gguf *g = NULL;
    pc_gguf_tensor t;
    int64_t width = 0;
    if (pc_gguf_open(&g, path)) {
        pc_warn("left aside: %s", pc_error_text());
        return 0;
    }
    const char *const last = pc_gguf_find(&t, g, "mm.2.weight") ? "mm.2.weight" : "mm.0.weight";
    if (pc_gguf_find(&t, g, last) && t.rank == 2) width = t.dim[0];
    pc_gguf_close(g);
    return width;
}

// The best candidate into `out`; "" when there is none.
static pc_status look_beside(char *out, size_t size, const char *path, int64_t C)
{
    char dir[PATH_MAX], candidate[PATH_MAX + 256], chosen[256] = "";
    int best = -1;
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    out[0] = '\0';
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (slash == path) snprintf(dir, sizeof dir, "/");
    DIR *d = opendir(dir);
    if (!d) return PC_OK; // the text file was opened: what cannot be listed holds nothing for us
    for (struct dirent *e; (e = readdir(d));) {
        if (!named_mmproj(e->d_name) || !strcmp(e->d_name, base)) continue;
        snprintf(candidate, sizeof candidate, "%s/%s", dir, e->d_name);
        if (projector_width(candidate) != C) continue;
        const int n = alike(e->d_name, base);
        // Of equals the first by name, so that the order of a directory does not matter.
        if (n < best || (n == best && strcmp(e->d_name, chosen) > 0)) continue;
        best = n;
        snprintf(chosen, sizeof chosen, "%s", e->d_name);
    }
    closedir(d);
    if (best < 0) return PC_OK;
    if (snprintf(out, size, "%s/%s", dir, chosen) >= (int)size)
        return pc_fail(PC_ERR_INPUT, "path is too long: '%.200s'", dir);
    return PC_OK;
}

/* ---- opening ---- */

static pc_status token_ids(pc_gguf_model *m)
{
    int64_t bos, eos;
    const int64_t V = m->config.vlm.decoder.V;
    pc_status st;
    if ((st = pc_gguf_int(&bos, m->text, "tokenizer.ggml.bos_token_id", -1, 0, V - 1)) ||
        (st = pc_gguf_int(&eos, m->text, "tokenizer.ggml.eos_token_id", -1, 0, V - 1)))
        return st;
    m->bos = (int32_t)bos;
    m->eos = (int32_t)eos;
    st = pc_gguf_text(&m->chat_template, m->text, "tokenizer.chat_template");
    return st ? st : pc_gguf_text(&m->template_name, m->text, "percept.template");
}

static pc_status open_text(pc_gguf_model *m)
{
    pc_status st = pc_gguf_decoder_config(&m->config, &m->llama, m->text);
    if (!st) st = token_ids(m);
    return pc_context(st, "'%s'", pc_gguf_path(m->text));
}

static pc_status open_eyes(pc_gguf_model *m, pc_gguf_spelling *spelling)
{
    const pc_vlm_config *c = &m->config.vlm;
    pc_status st = pc_gguf_eyes_config(&m->config, &m->image, spelling, m->eyes);
    if (!st && m->text && !c->projector.depth)
        st = pc_fail(PC_ERR_FORMAT, "the file has a tower and no projector to the text model");
    if (!st && m->text && c->projector.out != c->decoder.C)
        st = pc_fail(PC_ERR_FORMAT,
                     "the projector writes rows of %lld, the text model's are %lld wide",
                     (long long)c->projector.out, (long long)c->decoder.C);
    if (!st && m->text) st = pc_vlm_validate(c);
    return pc_context(st, "'%s'", pc_gguf_path(m->eyes));
}

static pc_status append(pc_aliases *to, pc_aliases *more)
{
    const int count = to->count + more->count;
    pc_alias *list = realloc(to->list, (size_t)(count + 1) * sizeof *list);
    if (!list) {
        pc_aliases_close(more);
        return pc_fail(PC_ERR_MEMORY, "list of %d tensor names", count);
    }
    if (more->count) memcpy(list + to->count, more->list, (size_t)more->count * sizeof *list);
    *to = (pc_aliases){.list = list, .count = count, .capacity = count + 1};
    pc_aliases_close(more);
    return PC_OK;
}

static pc_status list_aliases(pc_gguf_model *m, pc_gguf_spelling spelling)
{
    pc_aliases more = {0};
    pc_status st = PC_OK;
    if (m->text) st = pc_gguf_aliases(&m->aliases, &m->config, PC_GGUF_DECODER, spelling);
    m->eyes_first = m->aliases.count;
    if (st || !m->eyes) return st;
    if ((st = pc_gguf_aliases(&more, &m->config, PC_GGUF_EYES, spelling))) {
        pc_aliases_close(&more);
        return st;
    }
    return append(&m->aliases, &more);
}

static bool is_eyes(const pc_gguf *g)
{
    char *arch = NULL;
    const bool yes =
        !pc_gguf_text(&arch, g, "general.architecture") && arch && !strcmp(arch, "clip");
    free(arch);
    return yes;
}

static pc_status open_pair(pc_gguf_model *m, const char *path, const char *mmproj)
{
    char beside[PATH_MAX];
    pc_gguf_spelling spelling = {0};
    pc_gguf *g = NULL;
    pc_status st = pc_gguf_open(&g, path);
    if (st) return st;
    if (is_eyes(g)) {
        m->eyes = g;
        if (mmproj && *mmproj)
            return pc_fail(PC_ERR_INPUT, "'%s' is an mmproj file itself; expected the text model",
                           path);
    } else {
        m->text = g;
        if ((st = open_text(m))) return st;
        if (!mmproj) {
            if ((st = look_beside(beside, sizeof beside, path, m->config.vlm.decoder.C))) return st;
            mmproj = beside;
        }
        if (*mmproj && (st = pc_gguf_open(&m->eyes, mmproj))) return st;
    }
    if (m->eyes && (st = open_eyes(m, &spelling))) return st;
    if (!m->eyes) m->config.vlm.image_id = -1; // no token stands for an image
    return list_aliases(m, spelling);
}

pc_status pc_gguf_model_open(pc_gguf_model *out, const char *path, const char *mmproj)
{
    *out = (pc_gguf_model){.bos = -1, .eos = -1};
    const pc_status st = open_pair(out, path, mmproj);
    if (st) pc_gguf_model_close(out);
    return st;
}

void pc_gguf_model_close(pc_gguf_model *m)
{
    pc_gguf_close(m->text);
    pc_gguf_close(m->eyes);
    pc_aliases_close(&m->aliases);
    free(m->chat_template);
    free(m->template_name);
    *m = (pc_gguf_model){0};
}

/* ---- tensors against aliases ---- */

int64_t pc_gguf_model_tensors(const pc_gguf_model *m)
{
    return (m->text ? pc_gguf_count(m->text) : 0) + (m->eyes ? pc_gguf_count(m->eyes) : 0);
}

pc_gguf_tensor pc_gguf_model_tensor(const pc_gguf_model *m, int64_t i)
{
    const int64_t n = m->text ? pc_gguf_count(m->text) : 0;
    return i < n ? pc_gguf_at(m->text, i) : pc_gguf_at(m->eyes, i - n);
}

bool pc_gguf_model_find(pc_gguf_tensor *t, const pc_gguf_model *m, int i)
{
    return pc_gguf_find(t, i < m->eyes_first ? m->text : m->eyes, m->aliases.list[i].theirs);
}

static bool implied(const pc_alias *a)
{
    return a->theirs[0] == '(';
}

bool pc_gguf_model_implies(const pc_gguf_model *m, const char *ours)
{
    for (int i = m->eyes_first; i < m->aliases.count; i++)
        if (implied(&m->aliases.list[i]) && !strcmp(m->aliases.list[i].ours, ours)) return true;
    return false;
}

// Axes of one number at the slow end may be left out: ggml does not keep them.
static bool same_shape(const pc_alias *a, const pc_gguf_tensor *t)
{
    int skip = 0, k = 0;
    if (pc_alias_numel(a) != t->numel) return false;
    while (skip < a->rank && a->dim[skip] == 1) skip++;
    while (k < t->rank && t->dim[k] == 1) k++;
    if (a->rank - skip != t->rank - k) return false;
    for (int i = 0; i < a->rank - skip; i++)
        if (a->dim[skip + i] != t->dim[k + i]) return false;
    return true;
}

// What files have beside the parameters.
static bool of_use(const char *name)
{
    return !strcmp(name, "rope_freqs.weight");
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

pc_status pc_gguf_match_open(pc_gguf_match *out, const pc_gguf_model *m)
{
    const int n = m->aliases.count;
    const int64_t tensors = pc_gguf_model_tensors(m);
    *out = (pc_gguf_match){
        .missing = calloc((size_t)n + 1, sizeof(int64_t)),
        .misshapen = calloc((size_t)n + 1, sizeof(int64_t)),
        .surplus = calloc((size_t)tensors + 1, sizeof(int64_t)),
    };
    const char **names = malloc((size_t)(n + 1) * sizeof *names);
    if (!out->missing || !out->misshapen || !out->surplus || !names) {
        free(names);
        pc_gguf_match_close(out);
        return pc_fail(PC_ERR_MEMORY, "table of %lld tensors", (long long)tensors);
    }
    for (int i = 0; i < n; i++) {
        pc_gguf_tensor t;
        names[i] = m->aliases.list[i].theirs;
        if (implied(&m->aliases.list[i])) continue;
        if (!pc_gguf_model_find(&t, m, i))
            out->missing[out->missing_count++] = i;
        else if (!same_shape(&m->aliases.list[i], &t))
            out->misshapen[out->misshapen_count++] = i;
    }
    qsort(names, (size_t)n, sizeof *names, by_text);
    for (int64_t i = 0; i < tensors; i++) {
        const pc_gguf_tensor t = pc_gguf_model_tensor(m, i);
        const char *name = t.name;
        if (!bsearch(&name, names, (size_t)n, sizeof *names, by_text) && !of_use(name))
            out->surplus[out->surplus_count++] = i;
    }
    free(names);
    return PC_OK;
}

void pc_gguf_match_close(pc_gguf_match *x)
{
    free(x->missing);
    free(x->misshapen);
    free(x->surplus);
    *x = (pc_gguf_match){0};
}

static const char *shape_text(char *buf, size_t size, int rank, const int64_t *dim)
{
    size_t n = (size_t)snprintf(buf, size, "(");
    for (int i = 0; i < rank && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? "," : "", (long long)dim[i]);
    if (n < size) snprintf(buf + n, size - n, ")");
    return buf;
}

static void name_some(char *buf, size_t size, int64_t count, const char *what, const int64_t *index,
                      const pc_gguf_model *m, bool tensors)
{
    size_t n = strlen(buf);
    if (!count) return;
    n += (size_t)snprintf(buf + n, size - n, "%s%lld tensor%s %s: ", n ? "; " : "",
                          (long long)count, count > 1 ? "s" : "", what);
    for (int64_t i = 0; i < count && i < NAMED_MAX && n < size; i++) {
        pc_gguf_tensor t;
        const char *name = m->aliases.list ? m->aliases.list[tensors ? 0 : index[i]].theirs : "";
        if (tensors) {
            t = pc_gguf_model_tensor(m, index[i]);
            name = t.name;
        }
        n += (size_t)snprintf(buf + n, size - n, "%s'%.100s'", i ? ", " : "", name);
    }
    if (count > NAMED_MAX && n < size) snprintf(buf + n, size - n, ", ...");
}

static pc_status match_status(const pc_gguf_match *x, const pc_gguf_model *m)
{
    char text[1800] = "";
    if (x->misshapen_count) {
        const pc_alias *a = &m->aliases.list[x->misshapen[0]];
        pc_gguf_tensor t;
        char is[96], wants[96];
        pc_gguf_model_find(&t, m, (int)x->misshapen[0]);
        return pc_fail(PC_ERR_FORMAT, "tensor '%s': the file has %s, its metadata ask for %s%s",
                       a->theirs, shape_text(is, sizeof is, t.rank, t.dim),
                       shape_text(wants, sizeof wants, a->rank, a->dim),
                       x->misshapen_count > 1 ? " (and others)" : "");
    }
    name_some(text, sizeof text, x->missing_count, "missing", x->missing, m, false);
    name_some(text, sizeof text, x->surplus_count, "not known", x->surplus, m, true);
    return text[0] ? pc_fail(PC_ERR_FORMAT, "%s", text) : PC_OK;
}

pc_status pc_gguf_model_check(const pc_gguf_model *m)
{
    pc_gguf_match x = {0};
    pc_status st = pc_gguf_match_open(&x, m);
    if (!st) st = match_status(&x, m);
    pc_gguf_match_close(&x);
    return st;
}

/* ---- numbers ---- */

static pc_status unpermute(float *x, const pc_alias *a, int64_t heads)
{
    const int64_t row = a->rank > 1 ? a->dim[1] : 1, D = a->dim[0] / heads;
    float *room = malloc((size_t)(D * row + 1) * sizeof *room);
    if (!room) return pc_fail(PC_ERR_MEMORY, "tensor '%s': a head's rows", a->theirs);
    for (int64_t h = 0; h < heads; h++) pc_gguf_unpermute_head(x + h * D * row, room, D, row);
    free(room);
    return PC_OK;
}

static pc_status read_frame(float *out, const pc_gguf_model *m, const pc_gguf_tensor *t, int frame)
{
    float *x = malloc((size_t)t->numel * sizeof *x);
    if (!x)
        return pc_fail(PC_ERR_MEMORY, "tensor '%s': %lld numbers", t->name, (long long)t->numel);
    const pc_status st = pc_gguf_floats(x, t, 0, t->numel);
    if (!st) pc_gguf_put_frame(out, x, &m->config.vlm.vision, frame);
    free(x);
    return st;
}

pc_status pc_gguf_model_read(float *out, const pc_gguf_model *m, int i)
{
    const pc_alias *a = &m->aliases.list[i];
    pc_gguf_tensor t;
    if (implied(a)) {
        for (int64_t k = 0; k < a->count; k++)
            out[k] = strcmp(a->theirs, PC_GGUF_ONES) ? 0.0F : 1.0F;
        return PC_OK;
    }
    if (!pc_gguf_model_find(&t, m, i) || !same_shape(a, &t))
        return pc_fail(PC_ERR_FORMAT, "tensor '%s' is missing or of another shape", a->theirs);
    const int frame = pc_gguf_frame(a, &m->config);
    if (frame >= 0) return read_frame(out, m, &t, frame);
    pc_status st = pc_gguf_floats(out, &t, 0, t.numel);
    const int64_t heads =
        i < m->eyes_first ? pc_gguf_permuted(a, &m->config.vlm.decoder, m->llama) : 0;
    return st || !heads ? st : unpermute(out, a, heads);
}

pc_status pc_gguf_model_load(pc_params *params, const pc_gguf_model *m)
{
    pc_status st = pc_gguf_model_check(m);
    int64_t *filled = calloc((size_t)params->count + 1, sizeof *filled);
    if (!filled) return pc_fail(PC_ERR_MEMORY, "table of %d parameters", params->count);
    for (int i = 0; i < m->aliases.count && !st; i++) {
        const pc_alias *a = &m->aliases.list[i];
        const pc_param *p = pc_params_find(params, a->ours);
        PC_ASSERT(p, "the list of tensors names '%s', the model has no such parameter", a->ours);
        st = pc_gguf_model_read(pc_alias_data(a, p->weight->w), m, i);
        filled[p - params->list] += a->count;
    }
    for (int i = 0; i < params->count && !st; i++)
        if (filled[i] != pc_numel(params->list[i].weight->w))
            st = pc_fail(PC_ERR_FORMAT, "parameter '%s': %lld of %lld numbers are in the files",
                         params->list[i].name, (long long)filled[i],
                         (long long)pc_numel(params->list[i].weight->w));
    free(filled);
    return st;
}
