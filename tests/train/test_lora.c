/*
 * test_lora.c - runs that train low-rank adapters: the base stays, the adapters move, runs repeat and resume to the bit,
 * micro-batches run again drop the same inputs, and a checkpoint with adapters is a model like any other.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/file.h"
#include "model/core/log.h"
#include "tests/support/scratch.h"
#include "tests/support/small_run.h"
#include "train/loop.h"

static int failed;

static void expect(bool ok, const char *what, const char *seen)
{
    printf("%s %s%s%s\n", ok ? "ok    " : "FAILED", what, seen ? ": " : "", seen ? seen : "");
    failed += !ok;
}

#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})

static pc_status train(const char *stage, const char *out, bool resume, const char *const *sets)
{
    recipe r;
    pc_status st = small_recipe_try(&r, stage, out, sets);
    if (st) return st;
    st = loop_train(&r, resume);
    recipe_close(&r);
    return st;
}

static void must(const char *what, pc_status st)
{
    expect(st == PC_OK, what, st ? pc_error_text() : NULL);
}

static void refuse(const char *what, pc_status st, const char *word)
{
    expect(st != PC_OK && strstr(pc_error_text(), word), what, st ? pc_error_text() : "accepted");
}

static const char *in(const char *out, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/checkpoints/%s", out, name);
    return scratch_path(path);
}

static bool same_file(const char *a, const char *b)
{
    char x[65] = "a", y[65] = "b";
    return !pc_file_sha256(x, a) && !pc_file_sha256(y, b) && !strcmp(x, y);
}

static void copy_file(const char *to, const char *from)
{
    char *data;
    size_t size;
    if (pc_file_read(&data, &size, from, (size_t)1 << 30) || pc_file_write(to, data, size)) abort();
    free(data);
}

static bool equal(const pc_param *a, const pc_param *b)
{
    return a && b &&
           !memcmp(a->weight->w.data, b->weight->w.data,
                   (size_t)pc_numel(a->weight->w) * sizeof(float));
}

// Base parameters and adapters of two checkpoints: how many of them are equal to the bit.
typedef struct likeness {
    int base, base_equal, adapters, adapters_equal;
} likeness;

static likeness compare(const char *a, const char *b)
{
    pc_bundle x = {0}, y = {0};
    likeness l = {0};
    if (pc_bundle_open(&x, a) || pc_bundle_open(&y, b)) {
        expect(false, "open", pc_error_text());
        return l;
    }
    for (int i = 0; i < x.model.params.count; i++) {
        const pc_param *p = &x.model.params.list[i];
        const bool same = equal(p, pc_params_find(&y.model.params, p->name));
        *(p->adapter ? &l.adapters : &l.base) += 1;
        *(p->adapter ? &l.adapters_equal : &l.base_equal) += same;
    }
    pc_bundle_close(&x);
    pc_bundle_close(&y);
    return l;
}

#define ALL "model.lora={r: 3, alpha: 6, dropout: 0.2, targets: [all-linear]}"

static void repeats_and_resumes(const char *stage, const char *which, int adapters)
{
    char a[64], b[64], c[64], seen[128];
    snprintf(a, sizeof a, "%s-a", stage);
    snprintf(b, sizeof b, "%s-b", stage);
    snprintf(c, sizeof c, "%s-c", stage);
    const char *const *sets = SETS("checkpoint={every: 3, keep: 9}", "dropout=0.1", which, ALL);
    must(stage, train(stage, a, false, sets));
    must("again", train(stage, b, false, sets));
    expect(same_file(in(a, "last.h5"), in(b, "last.h5")), "twice the same last.h5", NULL);

    char folder[128];
    snprintf(folder, sizeof folder, "%s/checkpoints", c);
    must("folder", pc_make_dirs(scratch_path(folder)));
    copy_file(in(c, "last.h5"), in(a, "step-3.h5"));
    must("going on after step 3", train(stage, c, true, sets));
    expect(same_file(in(a, "last.h5"), in(c, "last.h5")),
           "resumed and unbroken end in the same last.h5", NULL);

    const likeness l = compare(in(a, "step-3.h5"), in(a, "last.h5"));
    snprintf(seen, sizeof seen, "%d of %d base, %d of %d adapters unchanged", l.base_equal, l.base,
             l.adapters_equal, l.adapters);
    expect(l.base > 0 && l.base_equal == l.base && l.adapters == 2 * adapters &&
               l.adapters_equal == 0,
           "every adapter moves and nothing else", seen);
}

// Micro-batches that are run again for backward, and those whose activations stay, end alike.
static void replays(void)
{
    const char *which = "model.train={vision: lora, text: lora}";
    must("kept", train("pretrain", "kept", false, SETS(which, ALL, "compute.replay=off")));
    must("replayed", train("pretrain", "again", false, SETS(which, ALL, "compute.replay=on")));
    const likeness l = compare(in("kept", "last.h5"), in("again", "last.h5"));
    expect(l.adapters > 0 && l.adapters_equal == l.adapters, "replay changes no bit", NULL);
    must("recomputed", train("tune", "blocks", false,
                             SETS("model.train={vision: lora, decoder: lora, projector: full}", ALL,
                                  "compute.recompute=block")));
    must("not recomputed",
         train("tune", "whole", false,
               SETS("model.train={vision: lora, decoder: lora, projector: full}", ALL)));
    const likeness r = compare(in("blocks", "last.h5"), in("whole", "last.h5"));
    expect(r.adapters > 0 && r.adapters_equal == r.adapters && r.base_equal == r.base,
           "recompute changes no bit", NULL);
}

// A run that starts from adapters starts from them merged; its model has none unless it asks.
static void goes_on_merged(void)
{
    char from[4300];
    pc_bundle b = {0};
    snprintf(from, sizeof from, "model={from: %s, train: {vision: frozen, decoder: full}}",
             in("tune-a", "last.h5"));
    must("a full run from adapters",
         train("tune", "full", false, SETS(from, "data.text={branches: true}", "optim.lr=1e-9")));
    must("open", pc_bundle_open(&b, in("full", "last.h5")));
    expect(b.model.adapters.count == 0, "has no adapters", NULL);
    pc_bundle a = {0};
    must("open", pc_bundle_open(&a, in("tune-a", "last.h5")));
    const char *name = "vision.blocks.0.attn.qkv.weight";
    expect(!equal(pc_params_find(&a.model.params, name), pc_params_find(&b.model.params, name)),
           "the frozen tower is not the bare base", NULL);
    must("merge", pc_adapters_merge(&a.model.adapters, &a.model.params));
    expect(equal(pc_params_find(&a.model.params, name), pc_params_find(&b.model.params, name)) &&
               a.model.params.count == b.model.params.count,
           "but base and adapters merged", NULL);
    pc_bundle_close(&a);
    pc_bundle_close(&b);
}

static void refusals(void)
{
    const char *lora = "model.train.decoder=lora";
    refuse("an unknown target",
           train("tune", "x1", false, SETS(lora, "model.lora.targets=[q_prj]")), "q_proj");
    refuse("a target of another module",
           train("tune", "x2", false,
                 SETS("model.train={decoder: lora, vision: lora}", "model.lora.targets=[o_proj]")),
           "vision");
    refuse("a broken pattern",
           train("tune", "x3", false, SETS(lora, "model.lora.targets=['(q_proj']")), "(q_proj");
    must("the usual targets",
         train("tune", "usual", false, SETS(lora, "length.steps=1", "model.lora.r=2")));
    pc_bundle b = {0};
    must("open", pc_bundle_open(&b, in("usual", "last.h5")));
    expect(b.model.adapters.count == 4 &&
               strstr(b.model.adapters.sites[0].module, "attn.q_proj") != NULL,
           "are queries and values",
           b.model.adapters.count ? b.model.adapters.sites[0].module : "");
    pc_bundle_close(&b);
}

int main(void)
{
    pc_log_quiet(true);
    scratch_open();
    // Two blocks of the tower with 6 linears each, two of the decoder with 7, the projector's one.
    repeats_and_resumes("tune", "model.train={vision: lora, projector: lora, decoder: lora}", 27);
    // Two blocks and one, with 6 each; an embedding head each.
    repeats_and_resumes("pretrain", "model.train={vision: lora, text: lora}", 20);
    replays();
    goes_on_merged();
    refusals();
    scratch_close();
    return failed != 0;
}
