/*
 * loop.c - see loop.h.
 */
#include "train/loop.h"

#include "model/core/file.h"
#include "model/core/log.h"
#include "train/diagnose.h"
#include "train/manifest.h"
#include "train/metrics.h"
#include "train/preview.h"
#include "train/report.h"
#include "train/state.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- signals -------------------------------------------------------------------------------------

static volatile sig_atomic_t stop_asked;

static void ask_stop(int signal_number)
{
    (void)signal_number;
    stop_asked = 1;
}

// A second signal has its ordinary effect: SA_RESETHAND.
static void catch_signals(struct sigaction old[2])
{
    struct sigaction act = {.sa_handler = ask_stop, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&act.sa_mask);
    stop_asked = 0;
    sigaction(SIGINT, &act, &old[0]);
    sigaction(SIGTERM, &act, &old[1]);
}

static void release_signals(const struct sigaction old[2])
{
    sigaction(SIGINT, &old[0], NULL);
    sigaction(SIGTERM, &old[1], NULL);
}

// ---- one step ------------------------------------------------------------------------------------

typedef struct trainer {
    run u;
    metrics metrics;
    validation last_val;
    bool validated; // last_val is of the present step
    pc_progress bar;
    pc_batch *batch;   // of the last launch
    bool open;         // the last launch has not been looked at
    step_metrics step; // of it
    double began, since;
} trainer;

static pc_status launch_step(trainer *t)
{
    run *u = &t->u;
    const double before = pc_seconds(), waited = pc_loader_waited(u->loader);
    pc_status st = pc_loader_next(u->loader, &t->batch);
    if (st) return pc_context(st, "step %lld", (long long)u->state.step + 1);
    pc_batch *b = t->batch;
    if (u->state.step == 0 && (st = preview_batch(u, b))) return st;

    if (augment_wanted(&u->augment)) augment_batch(&u->augment, b);
    const double lr = schedule_lr(&u->schedule, u->state.step);
    objective_launch(&u->engine, b, u->optimizer.loss);
    optimizer_launch(&u->optimizer, lr);
    u->state.step++;
    u->state.t = u->optimizer.t;

    t->open = true;
    t->step = (step_metrics){.step = u->state.step,
                             .epoch = b->epoch,
                             .lr = lr,
                             .samples = b->samples,
                             .skipped = b->skipped,
                             .tokens = b->tokens,
                             .supervised = b->supervised,
                             .images = b->images,
                             .flops = run_flops(u, b),
                             .waited = pc_loader_waited(u->loader) - waited};
    t->step.seconds = pc_seconds() - before;
    return PC_OK;
}

// Looks for what was not finite in a step that changed nothing. On a device the next batch may be in hand already, and
// gradients be that one's: the step is fetched and made again.
static pc_status diagnose(trainer *t, int64_t step, optimizer_result found)
{
    run *u = &t->u;
    if (u->backend.memory) {
        pc_status st = run_rewind(u, step - 1);
        if (!st) st = pc_loader_next(u->loader, &t->batch);
        if (st) return pc_context(st, "step %lld", (long long)step);
        if (augment_wanted(&u->augment)) augment_batch(&u->augment, t->batch);
        objective_step(&u->engine, t->batch);
    }
    return diagnose_step(u, t->batch, found.loss, found.norm);
}

static pc_status validate(trainer *t)
{
    run *u = &t->u;
    char text[200];
    pc_status st = validation_run(&t->last_val, u);
    if (st) return st;
    t->validated = true;
    const bool best = validation_improves(&t->last_val, u);
    pc_log("step %lld: %s%s", (long long)u->state.step,
           validation_text(text, sizeof text, &t->last_val, u), best ? "; the best so far" : "");
    if (!best) return PC_OK;
    return state_save_best(u);
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

// Whether more than a line of numbers follows a step.
static bool much_follows(const run *u, int64_t step)
{
    const recipe *r = u->recipe;
    return step == u->steps || due(step, r->checkpoint.every) ||
           (u->val_loader && due(step, r->eval.every));
}

// What follows an update: a function of the step alone.
static pc_status after_step(trainer *t, step_metrics *m)
{
    run *u = &t->u;
    const recipe *r = u->recipe;
    const bool end = u->state.step == u->steps;
    pc_status st = PC_OK;
    t->validated = false;
    if (u->val_loader && (due(u->state.step, r->eval.every) || end)) {
        if ((st = validate(t))) return st;
        m->val = &t->last_val;
    }
    if ((st = metrics_write(&t->metrics, m))) return st;
    if (end && !u->val_loader) {
        // Without validation the last weights are the best known.
        u->state.has_best = true;
        u->state.best_step = u->state.step;
        u->state.best_loss = u->state.best = 0.0;
        if ((st = state_save_best(u))) return st;
    }
    if (due(u->state.step, r->checkpoint.every) || end) {
        if ((st = metrics_flush(&t->metrics))) return st;
        st = state_save_last(u);
    }
    return st;
}

// Looks at the open step, launched `back` launches ago, and does what follows it.
static pc_status settle(trainer *t, step_metrics *m, int64_t back)
{
    run *u = &t->u;
    char note[96];
    const optimizer_result found = optimizer_found(&u->optimizer, back);
    if (!isfinite(found.loss) || !isfinite(found.norm)) return diagnose(t, m->step, found);
    m->loss = found.loss;
    m->grad_norm = found.norm;
    // A device's steps overlap: each lasts from the one before to itself.
    if (u->backend.memory) m->seconds = pc_seconds() - t->since;
    pc_status st = back > 0 ? metrics_write(&t->metrics, m) : after_step(t, m);
    if (st) return st;
    t->since = pc_seconds();
    snprintf(note, sizeof note, "loss %.3f (chance %.2f)", m->loss, u->chance);
    pc_progress_update(&t->bar, m->step, note);
    return PC_OK;
}

static pc_status settle_open(trainer *t)
{
    t->open = false;
    return settle(t, &t->step, 0);
}

/*
 * A device is told the next step before the present one is looked at, so that it never waits for the host: what a step
 * left is read a step late, unless more than numbers is to follow it. The update has looked for itself: see optimizer.h.
 */
static pc_status train(trainer *t)
{
    run *u = &t->u;
    pc_status st = PC_OK;
    pc_progress_open(&t->bar, recipe_word("stage", u->recipe->top.stage), "steps", u->steps);
    pc_progress_resume(&t->bar, u->state.step);
    t->since = pc_seconds();
    while (!st && u->state.step < u->steps && !stop_asked) {
        const bool late = u->backend.memory && !much_follows(u, u->state.step + 1);
        if (t->open && !late && (st = settle_open(t)))
            break; // so that each step is given its own time
        step_metrics before = t->step;
        const bool open = t->open;
        if ((st = launch_step(t))) break;
        if (open && (st = settle(t, &before, 1))) break;
        if (!late) st = settle_open(t);
    }
    if (!st && t->open) st = settle_open(t);
    pc_progress_close(&t->bar);
    return st;
}

// ---- before and after ----------------------------------------------------------------------------

static pc_status write_recipe(const run *u)
{
    char path[4096], *yaml = NULL;
    pc_status st = recipe_to_yaml(&yaml, u->recipe, true);
    if (!st) st = pc_file_write(state_path(path, u->recipe, "recipe.yaml"), yaml, strlen(yaml));
    free(yaml);
    return st;
}

static void log_start(const run *u)
{
    const recipe *r = u->recipe;
    pc_isa isa = PC_ISA_REF;
    char bytes[32];
    (void)pc_isa_choose(&isa);
    if (u->backend.memory) pc_log("on %s", u->backend.device);
    pc_log("percept-train %s, %s, %d threads (%s), %lld parameters, %lld trained, %s of memory "
           "planned",
           PERCEPT_VERSION, pc_isa_name(isa), u->threads,
           u->request.samples ? "each its own micro-batches" : "sharing every operation",
           (long long)u->plan.numbers, (long long)u->plan.trained,
           plan_bytes(bytes, sizeof bytes, (double)u->plan.total));
    pc_log("%s: %lld samples, %lld steps of %lld (%.2f epochs), into %s", r->top.name,
           (long long)u->train.count, (long long)u->steps, (long long)r->batch.size,
           (double)u->steps / (double)(u->steps_per_epoch > 0 ? u->steps_per_epoch : 1),
           r->top.out);
    if (u->resumed) pc_log("going on after step %lld", (long long)u->state.step);
}

static pc_status interrupted(trainer *t)
{
    run *u = &t->u;
    char path[4096];
    pc_status st = metrics_flush(&t->metrics);
    if (!st) st = state_save_last(u);
    if (st) return st;
    return pc_fail(PC_ERR_INTERRUPTED,
                   "stopped after step %lld of %lld; go on with: percept-train %s --resume",
                   (long long)u->state.step, (long long)u->steps,
                   state_path(path, u->recipe, "recipe.yaml"));
}

static pc_status finish(trainer *t)
{
    run *u = &t->u;
    char path[4096];
    const report_input in = {.run = u,
                             .metrics = &t->metrics,
                             .val = t->validated ? &t->last_val : NULL,
                             .seconds = pc_seconds() - t->began};
    pc_status st = metrics_flush(&t->metrics);
    if (!st) st = report_write(&in);
    if (!st)
        pc_log("done: %s, %s", state_path(path, u->recipe, "checkpoints/best.h5"), "report.html");
    return st;
}

// Nothing left to do, unless the run was killed between its last checkpoint and its report.
static pc_status complete(trainer *t)
{
    run *u = &t->u;
    char path[4096];
    pc_log("'%s' is complete: %lld steps", u->recipe->top.out, (long long)u->state.step);
    if (pc_file_exists(state_path(path, u->recipe, "report.html"))) return PC_OK;
    pc_status st = metrics_open(&t->metrics, u->recipe->top.out, u->state.step);
    if (!st && u->val_loader) {
        st = validation_run(&t->last_val, u);
        t->validated = true;
    }
    return st ? st : finish(t);
}

pc_status loop_train(recipe *r, bool resume)
{
    trainer *t = calloc(1, sizeof *t);
    struct sigaction old[2];
    char *last = NULL, path[4096];
    int lock = -1;
    pc_status st;
    if (!t) return pc_fail(PC_ERR_MEMORY, "trainer");
    t->began = pc_seconds();
    t->metrics.fd = t->metrics.board.fd = -1;
    catch_signals(old);
    if ((st = state_folder(&last, &lock, r, resume)) || (st = run_open(&t->u, r, last, false)))
        goto out;
    if (t->u.state.step >= t->u.steps) {
        st = complete(t);
        goto out;
    }
    log_start(&t->u);
    if ((st = write_recipe(&t->u))) goto out;
    if (!(t->u.resumed && pc_file_exists(state_path(path, r, "manifest.json"))) &&
        (st = manifest_write(&t->u)))
        goto out;
    if ((st = metrics_open(&t->metrics, r->top.out, t->u.state.step))) goto out;
    if ((st = train(t))) goto out;
    st = t->u.state.step < t->u.steps ? interrupted(t) : finish(t);
out:
    release_signals(old);
    metrics_close(&t->metrics);
    run_close(&t->u);
    if (lock >= 0) close(lock);
    free(last);
    free(t);
    return st;
}

pc_status loop_plan(recipe *r)
{
    run u;
    pc_status st = run_open(&u, r, NULL, true);
    if (!st) {
        printf("%s: %lld steps of %lld samples in micro-batches of %lld, %d %s\n", r->top.name,
               (long long)u.steps, (long long)r->batch.size, (long long)r->batch.micro,
               u.request.replicas, u.request.replicas == 1 ? "replica" : "replicas");
        plan_print(stdout, &u.plan);
        st = plan_check(&u.plan, &u.request);
    }
    run_close(&u);
    return st;
}
