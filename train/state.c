/*
 * state.c - see state.h.
 */
#include "train/state.h"

#include "model/core/file.h"
#include "model/core/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

const char *state_path(char buf[4096], const recipe *r, const char *name)
{
    snprintf(buf, 4096, "%s/%s", r->top.out, name);
    return buf;
}

static pc_status lock_folder(int *lock, const recipe *r)
{
    *lock = open(r->top.out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0) return pc_fail_errno("out: '%s'", r->top.out);
    if (!flock(*lock, LOCK_EX | LOCK_NB)) return PC_OK;
    if (errno == EWOULDBLOCK)
        return pc_fail(PC_ERR_INPUT, "another percept-train is writing into '%s'", r->top.out);
    return PC_OK; // a file system without locks
}

// Files that a killed process left half written.
static void remove_parts(const recipe *r)
{
    char folder[4096];
    DIR *d = opendir(state_path(folder, r, "checkpoints"));
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        const size_t n = strlen(e->d_name);
        if (n > 5 && !strcmp(e->d_name + n - 5, ".part")) unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
}

pc_status state_folder(char **last, int *lock, const recipe *r, bool resume)
{
    char path[4096];
    *last = NULL;
    pc_status st = pc_make_dirs(state_path(path, r, "checkpoints"));
    if (st || (st = lock_folder(lock, r))) return st;
    remove_parts(r);
    const bool has_last = pc_file_exists(state_path(path, r, "checkpoints/last.h5"));
    const bool used = has_last || pc_file_exists(state_path(path, r, "recipe.yaml"));
    if (used && !resume)
        return pc_fail(PC_ERR_INPUT,
                       "'%s' already holds a run: --resume goes on with it, --set out=FOLDER "
                       "starts another",
                       r->top.out);
    if (has_last) {
        *last = strdup(state_path(path, r, "checkpoints/last.h5"));
        if (!*last) return pc_fail(PC_ERR_MEMORY, "path");
    } else if (resume && used) {
        pc_log("'%s' has no checkpoint yet: starting from the beginning", r->top.out);
    }
    return PC_OK;
}

// ---- the state as JSON ---------------------------------------------------------------------------

char *state_write(const run_state *s, uint64_t seed, int64_t steps_per_epoch)
{
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:i, s:i, s:{s:I, s:s}}", "step", (json_int_t)s->step,
                  "epoch", (json_int_t)(steps_per_epoch > 0 ? s->step / steps_per_epoch : 0),
                  "updates", (json_int_t)s->t, "seed", (json_int_t)seed, "threads", s->threads,
                  "replicas", s->replicas, "data", "samples", (json_int_t)s->samples, "sha256",
                  s->data);
    if (o && s->has_best)
        json_object_set_new(o, "best",
                            json_pack("{s:f, s:f, s:I}", "value", s->best, "loss", s->best_loss,
                                      "step", (json_int_t)s->best_step));
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return text;
}

pc_status state_read(run_state *s, const char *json)
{
    json_error_t error;
    json_int_t step, t, samples, best_step = 0;
    const char *hash = "";
    *s = (run_state){0};
    json_t *o = json ? json_loads(json, 0, &error) : NULL;
    if (!o || json_unpack(o, "{s:I, s:I, s:i, s:i, s:{s:I, s:s}}", "step", &step, "updates", &t,
                          "threads", &s->threads, "replicas", &s->replicas, "data", "samples",
                          &samples, "sha256", &hash)) {
        json_decref(o);
        return pc_fail(PC_ERR_FORMAT, "the training state is %s",
                       json ? "not what percept-train writes" : "missing: not a last.h5");
    }
    s->step = step;
    s->t = t;
    s->samples = samples;
    snprintf(s->data, sizeof s->data, "%s", hash);
    if (!json_unpack(o, "{s:{s:F, s:F, s:I}}", "best", "value", &s->best, "loss", &s->best_loss,
                     "step", &best_step)) {
        s->has_best = true;
        s->best_step = best_step;
    }
    json_decref(o);
    return PC_OK;
}

// ---- writing -------------------------------------------------------------------------------------

static const pc_param *moments_nonfinite(const pc_params *p)
{
    for (int i = 0; i < p->count; i++) {
        const pc_param *q = &p->list[i];
        if (!q->trainable) continue;
        const float *m = q->m.data, *v = q->v.data;
        for (int64_t n = 0; n < pc_numel(q->m); n++)
            if (!isfinite(m[n]) || !isfinite(v[n])) return q;
    }
    return NULL;
}

static pc_status save_fetched(run *u, const char *path, bool moments)
{
    const pc_params *params = &u->model->params;
    const pc_param *bad = pc_params_nonfinite(params, false);
    if (!bad && moments) bad = moments_nonfinite(params);
    if (bad)
        return pc_fail(PC_ERR_NUMERIC,
                       "step %lld: '%s' or its moments hold a value that is not finite; '%s' is "
                       "left as it was",
                       (long long)u->state.step, bad->name, path);
    u->text.state = state_write(&u->state, (uint64_t)u->recipe->top.seed, u->steps_per_epoch);
    if (!u->text.state) return pc_fail(PC_ERR_MEMORY, "training state");
    pc_status st = pc_native_write(path, params, moments, &u->text);
    free(u->text.state);
    u->text.state = NULL;
    return st;
}

static pc_status save(run *u, const char *path, bool moments)
{
    pc_status st = pc_placement_fetch(&u->placement);
    if (st) return st;
    fp8_fetch(&u->engine.fp8);
    st = save_fetched(u, path, moments);
    pc_placement_return(&u->placement);
    return st;
}

// last.h5 becomes another name of the step file; where links are not to be had, a file of its own.
static pc_status link_last(run *u, const char *step_file, const char *last)
{
    char tmp[4096 + 8];
    pc_status st = pc_file_temp(tmp, sizeof tmp, last);
    if (st) return st;
    unlink(tmp);
    if (link(step_file, tmp)) return save(u, last, true);
    return pc_file_commit(tmp, last);
}

// Step files beyond the newest `keep` go; so do those of a step that the run has yet to reach again.
static void prune(const recipe *r, int64_t now)
{
    char folder[4096];
    int64_t steps[1024];
    int n = 0;
    DIR *d = opendir(state_path(folder, r, "checkpoints"));
    if (!d) return;
    for (struct dirent *e; (e = readdir(d)) && n < 1024;) {
        long long step;
        char end[8] = "";
        if (sscanf(e->d_name, "step-%lld.%7s", &step, end) == 2 && !strcmp(end, "h5"))
            steps[n++] = step;
    }
    closedir(d);
    for (int i = 0; i < n; i++) {
        int newer = 0;
        for (int k = 0; k < n; k++) newer += steps[k] > steps[i] && steps[k] <= now;
        if (newer < r->checkpoint.keep && steps[i] <= now) continue;
        char name[64], path[4096];
        snprintf(name, sizeof name, "checkpoints/step-%lld.h5", (long long)steps[i]);
        unlink(state_path(path, r, name));
    }
}

pc_status state_save_last(run *u)
{
    char last[4096], step[4096], name[64];
    const recipe *r = u->recipe;
    pc_status st;
    state_path(last, r, "checkpoints/last.h5");
    if (r->checkpoint.keep == 0) return save(u, last, true);
    snprintf(name, sizeof name, "checkpoints/step-%lld.h5", (long long)u->state.step);
    if ((st = save(u, state_path(step, r, name), true))) return st;
    if ((st = link_last(u, step, last))) return st;
    prune(r, u->state.step);
    return PC_OK;
}

pc_status state_save_best(run *u)
{
    char path[4096];
    return save(u, state_path(path, u->recipe, "checkpoints/best.h5"), false);
}
