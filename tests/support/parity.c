/*
 * parity.c - see parity.h.
 */
#include "tests/support/parity.h"

#include "checkpoints/bundle.h"
#include "checkpoints/safetensors.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed;

int parity_failed(void)
{
    return failed;
}

double parity_error(const float *a, const float *b, int64_t n)
{
    double diff = 0.0, norm = 0.0;

    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        diff += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(diff) / (norm > 0.0 ? sqrt(norm) : 1.0);
}

// NaN is worse than anything, and stays.
static bool worse(double e, double than)
{
    return !isnan(than) && !(e <= than);
}

void parity_report(const char *what, double error, double limit, const char *where)
{
    const bool good = error <= limit;
    failed += !good;
    printf("%s %-36s %.1e of %.0e%s%s\n", good ? "  ok  " : "  FAIL", what, error, limit,
           where[0] ? "  worst: " : "", where);
    fflush(stdout);
}

void parity_broken(const char *what)
{
    failed++;
    printf("  FAIL %s: %s\n", what, pc_error_text());
    fflush(stdout);
}

// Runs one of the programs with its arguments; its standard output goes to `out`.
static bool run(const char *out, const char *fmt, ...) PC_PRINTF(2, 3);
static bool run(const char *out, const char *fmt, ...)
{
    const char *bin = getenv("PERCEPT_BIN");
    char words[2048], line[4096];
    va_list args;

    va_start(args, fmt);
    vsnprintf(words, sizeof words, fmt, args);
    va_end(args);
    snprintf(line, sizeof line, "%s/%s >'%s'", bin ? bin : "build/bin", words, out);
    const int status = system(line);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    failed++;
    printf("  FAIL exit status %d: %s\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1, line);
    return false;
}

// "DIR/FILE" in one of 16 buffers used in turn.
static const char *in(const char *dir, const char *file)
{
    static char buf[16][4400];
    static int next;
    char *b = buf[next++ % 16];
    snprintf(b, sizeof buf[0], "%s/%s", dir, file);
    return b;
}

static pc_safetensors *open_st(const char *path)
{
    pc_safetensors *s = NULL;
    if (pc_safetensors_open(&s, path)) parity_broken(path);
    return s;
}

static int64_t numel(const pc_st_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static float *floats(const pc_st_entry *e)
{
    float *x = malloc((size_t)(numel(e) + 1) * sizeof *x);
    if (!x || pc_st_floats(x, e, numel(e))) abort();
    return x;
}

static bool ends(const char *s, const char *end)
{
    const size_t a = strlen(s), b = strlen(end);
    return a >= b && !strcmp(s + a - b, end);
}

// ---- forward -----------------------------------------------------------------------------------

// Maps (B,C,h,w) as rows (B,h,w,C).
static void rows_of_planes(float *x, const pc_st_entry *e)
{
    const int64_t B = e->dim[0], C = e->dim[1], P = e->dim[2] * e->dim[3];
    float *copy = floats(e);
    for (int64_t b = 0; b < B; b++)
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < C; c++) x[(b * P + p) * C + c] = copy[(b * C + c) * P + p];
    free(copy);
}

// Rows (b,t) of a tensor (B,T,...) that count; every row of any other.
static double masked_error(const pc_st_entry *a, const pc_st_entry *b, const pc_st_entry *mask)
{
    float *x = floats(a), *y = floats(b);
    int64_t n = numel(b);

    if (b->rank == 4 && ends(b->name, "neck_output")) rows_of_planes(y, b);
    if (mask && b->rank == 3 && b->dim[0] == mask->dim[0] && b->dim[1] == mask->dim[1]) {
        const int64_t rows = b->dim[0] * b->dim[1], C = b->dim[2];
        float *m = floats(mask);
        int64_t kept = 0;
        for (int64_t r = 0; r < rows; r++) {
            if (m[r] == 0.0F) continue;
            memmove(x + kept * C, x + r * C, (size_t)C * sizeof *x);
            memmove(y + kept * C, y + r * C, (size_t)C * sizeof *y);
            kept++;
        }
        n = kept * C;
        free(m);
    }
    const double e = parity_error(x, y, n);
    free(x);
    free(y);
    return e;
}

// Number of the decoder's blocks: one less than its hidden states.
static int64_t last_state(const pc_safetensors *got)
{
    char name[64];
    int64_t n = 0;
    do snprintf(name, sizeof name, "decoder.hidden_states.%lld", (long long)n++);
    while (pc_safetensors_find(got, name));
    return n - 2;
}

static const pc_st_entry *find_tap(const pc_safetensors *got, const pc_st_entry *theirs,
                                   int64_t last)
{
    char names[3][64];
    const int n = parity_names(names, theirs->name, last);
    for (int i = 0; i < n; i++) {
        const pc_st_entry *a = pc_safetensors_find(got, names[i]);
        if (a && numel(a) == numel(theirs)) return a;
    }
    return NULL;
}

static bool is_output(const char *name);

static void compare_taps(const pc_safetensors *got, const pc_safetensors *want,
                         const pc_st_entry *mask)
{
    const int64_t last = last_state(got);
    double worst = 0.0;
    const char *where = "";
    int seen = 0;

    for (int64_t i = 0; i < pc_safetensors_count(want); i++) {
        const pc_st_entry *b = pc_safetensors_at(want, i), *a = find_tap(got, b, last);
        if (!a && !is_output(b->name) && strncmp(b->name, "interp_", 7) != 0)
            printf("       %s: nothing of ours beside it\n", b->name);
        if (!a) continue;
        const double e = masked_error(a, b, mask);
        seen++;
        if (worse(e, worst)) {
            worst = e;
            where = b->name;
        }
    }
    char what[64];
    snprintf(what, sizeof what, "%d activations", seen);
    if (seen) parity_report(what, worst, PARITY_OUTPUT, where);
}

static bool is_output(const char *name)
{
    static const char *const names[] = {"logits",      "image_embeds",     "video_embeds",
                                        "text_embeds", "logits_per_image", "logits_per_text",
                                        "loss"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i])) return true;
    return false;
}

static bool compared(const pc_st_entry *ours, const pc_st_entry *theirs)
{
    if (!is_output(theirs->name)) return false;
    if (ours && ours->rank == theirs->rank) {
        for (int i = 0; i < ours->rank; i++)
            if (ours->dim[i] != theirs->dim[i]) ours = NULL;
        if (ours) return true;
    }
    failed++;
    printf("  FAIL %s: missing, or of another shape\n", theirs->name);
    return false;
}

// Outputs of `model`, with `flags`, against those of the file `want` of the folder; `logits`: their name there.
static void forward(const char *dir, const char *model, const char *flags, const char *reference,
                    const char *logits, bool taps)
{
    const char *out = scratch_path("logits.safetensors"), *said = scratch_path("logits.txt");

    if (!run(said, "percept logits '%s' --inputs '%s' --out '%s' %s %s", model,
             in(dir, "inputs.safetensors"), out, taps ? "--taps" : "", flags))
        return;
    pc_safetensors *got = open_st(out), *want = open_st(in(dir, reference));
    pc_safetensors *inputs = open_st(in(dir, "inputs.safetensors"));
    if (got && want && inputs) {
        const pc_st_entry *mask = pc_safetensors_find(inputs, "attention_mask");
        for (int64_t i = 0; i < pc_safetensors_count(want); i++) {
            const pc_st_entry *b = pc_safetensors_at(want, i);
            const char *name = logits && !strcmp(b->name, logits) ? "logits" : b->name;
            const pc_st_entry *a = pc_safetensors_find(got, name);
            if (strcmp(name, b->name) || compared(a, b))
                parity_report(b->name, a ? masked_error(a, b, mask) : NAN, PARITY_OUTPUT, "");
        }
        if (taps) compare_taps(got, want, mask);
    }
    pc_safetensors_close(got);
    pc_safetensors_close(want);
    pc_safetensors_close(inputs);
}

void parity_logits(const char *dir, const char *model, bool taps)
{
    printf("%s: forward\n", model ? model : dir);
    forward(dir, model ? model : dir, "", "outputs.safetensors", NULL, taps);
}

// ---- backward ----------------------------------------------------------------------------------

// Softmax does not see a constant added to all keys: without rotary positions the gradient of a key's bias is
// zero but for rounding.
static bool zero_by_nature(const char *name, bool decoder_only)
{
    if (ends(name, "in_proj_bias")) return true;
    if (!ends(name, "k_proj.bias") || decoder_only) return false;
    return !strstr(name, "language_model");
}

static double largest(const float *x, int64_t n)
{
    double m = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double a = fabs((double)x[i]);
        if (worse(a, m)) m = a;
    }
    return m;
}

static double global_norm(const pc_safetensors *s)
{
    double sum = 0.0;
    for (int64_t i = 0; i < pc_safetensors_count(s); i++) {
        const pc_st_entry *e = pc_safetensors_at(s, i);
        float *x = floats(e);
        for (int64_t k = 0; k < numel(e); k++) sum += (double)x[k] * (double)x[k];
        free(x);
    }
    return sqrt(sum);
}

// Tensor by tensor, the same names both ways.
typedef struct differ {
    double worst, limit, zero, zero_limit; // zero: largest |value| of what should vanish
    char where[192];
    bool skip_zero;    // leave them out
    bool decoder_only; // a text model: keys are rotated
} differ;

static void differ_entry(differ *d, const pc_st_entry *a, const pc_st_entry *b)
{
    float *x = floats(a), *y = floats(b);
    const int64_t n = numel(b);
    int64_t first = 0, skip = 0; // [first, first + skip) vanishes

    if (zero_by_nature(b->name, d->decoder_only)) {
        skip = ends(b->name, "in_proj_bias") ? n / 3 : n;
        first = ends(b->name, "in_proj_bias") ? n / 3 : 0;
        const double z = largest(x + first, skip);
        if (!d->skip_zero && worse(z, d->zero)) d->zero = z;
        memmove(x + first, x + first + skip, (size_t)(n - first - skip) * sizeof *x);
        memmove(y + first, y + first + skip, (size_t)(n - first - skip) * sizeof *y);
    }
    const double e = n > skip ? parity_error(x, y, n - skip) : 0.0;
    if (worse(e, d->worst)) {
        d->worst = e;
        snprintf(d->where, sizeof d->where, "%s", b->name);
    }
    free(x);
    free(y);
}

static void differ_all(differ *d, const pc_safetensors *got, const pc_safetensors *want)
{
    if (pc_safetensors_count(want) == 0) abort();
    for (int64_t i = 0; i < pc_safetensors_count(want); i++) {
        const pc_st_entry *b = pc_safetensors_at(want, i);
        const pc_st_entry *a = pc_safetensors_find(got, b->name);
        bool same = a && a->rank == b->rank;
        for (int k = 0; same && k < b->rank; k++) same = a->dim[k] == b->dim[k];
        if (!same) {
            failed++;
            printf("  FAIL %s: %s\n", b->name, a ? "another shape" : "missing");
            continue;
        }
        differ_entry(d, a, b);
    }
    for (int64_t i = 0; i < pc_safetensors_count(got); i++) {
        const char *name = pc_safetensors_at(got, i)->name;
        if (pc_safetensors_find(want, name) || !strcmp(name, "loss")) continue;
        failed++;
        printf("  FAIL %s: not in the reference\n", name);
    }
}

static bool decoder_only(const pc_safetensors *s)
{
    return pc_safetensors_find(s, "model.embed_tokens.weight") != NULL;
}

static void backward(const char *dir, const char *flags, const char *reference)
{
    const char *out = scratch_path("grads.safetensors"), *said = scratch_path("grads.txt");

    if (!run(said, "percept-train gradients '%s' --inputs '%s' --out '%s' %s", dir,
             in(dir, "inputs.safetensors"), out, flags))
        return;
    pc_safetensors *got = open_st(out), *want = open_st(in(dir, reference));
    if (got && want) {
        differ d = {.limit = PARITY_GRAD, .decoder_only = decoder_only(want)};
        differ_all(&d, got, want);
        parity_report("gradients", d.worst, PARITY_GRAD, d.where);
        parity_report("gradients that vanish / norm", d.zero / global_norm(want), 1e-5, "");
    }
    pc_safetensors_close(got);
    pc_safetensors_close(want);
}

void parity_gradients(const char *dir)
{
    printf("%s: backward\n", dir);
    backward(dir, "", "grads.safetensors");
}

// ---- training ----------------------------------------------------------------------------------

static double relative(double a, double b)
{
    return fabs(a - b) / fabs(b);
}

static void compare_steps(const char *said, const json_t *trace)
{
    FILE *f = fopen(said, "r");
    char line[512];
    double loss = 0.0, norm = 0.0;
    size_t s = 0;

    while (f && fgets(line, sizeof line, f)) {
        json_t *got = json_loads(line, 0, NULL);
        const json_t *want = json_array_get(trace, s++);
        const json_t *n = json_object_get(want, "grad_norm");
        if (!n) n = json_object_get(want, "grad_norm_before_clip");
        const double l = relative(json_number_value(json_object_get(got, "loss")),
                                  json_number_value(json_object_get(want, "loss")));
        const double g =
            relative(json_number_value(json_object_get(got, "grad_norm")), json_number_value(n));
        if (worse(l, loss)) loss = l;
        if (worse(g, norm)) norm = g;
        json_decref(got);
    }
    if (f) fclose(f);
    if (s != json_array_size(trace)) {
        failed++;
        printf("  FAIL %zu steps of %zu\n", s, json_array_size(trace));
    }
    parity_report("loss of every step", loss, PARITY_TRACE, "");
    parity_report("gradient norm of every step", norm, PARITY_TRACE, "");
}

static void steps(const char *dir, const char *flags, const char *trace, const char *batches,
                  const char *final)
{
    const char *out = scratch_path("final.safetensors"), *said = scratch_path("steps.jsonl");

    printf("%s: %s\n", dir, trace);
    if (!run(said, "percept-train replay '%s' --json --trace '%s' --batches '%s' --out '%s' %s",
             dir, in(dir, trace), in(dir, batches), out, flags))
        return;
    json_t *json = json_load_file(in(dir, trace), 0, NULL);
    compare_steps(said, json_object_get(json, "trace"));
    json_decref(json);
    pc_safetensors *got = open_st(out), *want = open_st(in(dir, final));
    if (got && want) {
        differ d = {.limit = PARITY_FINAL, .skip_zero = true, .decoder_only = decoder_only(want)};
        differ_all(&d, got, want);
        parity_report("parameters at the end", d.worst, PARITY_FINAL, d.where);
    }
    pc_safetensors_close(got);
    pc_safetensors_close(want);
}

void parity_trace(const char *dir, const char *trace, const char *batches, const char *final)
{
    steps(dir, "", trace, batches, final);
}

// ---- adapters ----------------------------------------------------------------------------------

// The folder's model with its trained adapters as a native checkpoint: merged, or side by side.
static const char *native_with(const char *dir, bool merged)
{
    pc_bundle b = {0};
    const char *path = scratch_path(merged ? "merged.h5" : "beside.h5");
    pc_status st = pc_bundle_open(&b, dir);
    if (!st) st = pc_bundle_adapt(&b, in(dir, "lora/adapter_final"));
    if (!st && merged) st = pc_adapters_merge(&b.model.adapters, &b.model.params);
    if (!st) {
        json_t *json = pc_model_config_to_json(&b.model.config);
        pc_native_text text = {.model = json_dumps(json, 0)};
        if (!merged) text.adapters = pc_adapters_text(&b.model.adapters, 0.0);
        st = pc_native_write(path, &b.model.params, false, &text);
        pc_native_text_close(&text);
        json_decref(json);
    }
    pc_bundle_close(&b);
    if (!st) return path;
    parity_broken("trained adapters");
    return NULL;
}

void parity_adapters(const char *dir)
{
    char flags[4500];
    if (!pc_is_dir(in(dir, "lora"))) return;
    snprintf(flags, sizeof flags, "--adapter '%s'", in(dir, "lora/adapter_probe"));
    printf("%s: adapters\n", dir);
    forward(dir, dir, flags, "lora/probe_outputs.safetensors", NULL, false);
    backward(dir, flags, "lora/probe_grads.safetensors");
    snprintf(flags, sizeof flags, "--adapter '%s'", in(dir, "lora/adapter_initial"));
    steps(dir, flags, "lora/train_lora.json", "train_batches.safetensors",
          "lora/adapter_final/adapter_model.safetensors");
    for (int merged = 0; merged < 2; merged++) {
        const char *model = native_with(dir, merged);
        printf("%s: trained adapters %s\n", dir, merged ? "merged" : "beside the weights");
        if (model)
            forward(dir, model, "", "lora/final_outputs.safetensors", "logits_merged", false);
    }
}

// ---- folders -----------------------------------------------------------------------------------

// Names that stay good until the program ends.
static const char *keep(const char *text)
{
    static char kept[64][4400];
    static int count;
    if (count == 64) abort();
    snprintf(kept[count], sizeof kept[0], "%s", text);
    return kept[count++];
}

const char *parity_own(const char *name)
{
    return keep(in("tests/goldens", name));
}

const char *parity_shared(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "goldens/%s", name);
    const char *dir = shared_path(path);
    if (dir) return keep(dir);

    const char *ci = getenv("CI");
    if (ci && !strcmp(ci, "true")) {
        failed++;
        printf("  FAIL ../shared/%s is not there\n", path);
    } else {
        printf("skipped: ../shared/%s is not there\n", path);
    }
    return NULL;
}

const char *parity_other_config(const char *dir, const char *config)
{
    static int count;
    char name[32], full[4096];
    const struct dirent *e;

    snprintf(name, sizeof name, "config%d", count++);
    const char *folder = keep(scratch_path(name));
    DIR *list = opendir(dir);
    if (!list || pc_make_dirs(folder) || !realpath(dir, full) ||
        symlink(in(full, config), in(folder, "config.json")))
        abort();
    while ((e = readdir(list)))
        if (e->d_name[0] != '.' && strcmp(e->d_name, "config.json") &&
            symlink(in(full, e->d_name), in(folder, e->d_name)))
            abort();
    closedir(list);
    return folder;
}
