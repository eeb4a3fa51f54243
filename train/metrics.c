/*
 * metrics.c - see metrics.h.
 */
#include "train/metrics.h"

#include "model/core/file.h"
#include "model/core/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LINE = 8192 };
static const double FLUSH_EVERY = 5.0; // seconds

// Bytes of the file's whole lines whose step is at most `from`: they come first and in order.
static pc_status kept_bytes(off_t *out, const char *path, int64_t from)
{
    char *text = NULL;
    size_t size = 0;
    *out = 0;
    if (from == 0 || !pc_file_exists(path)) return PC_OK;
    pc_status st = pc_file_read(&text, &size, path, (size_t)1 << 32);
    if (st) return st;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        long long step;
        if (sscanf(line, "{\"step\": %lld", &step) != 1 || step > from) break;
        *out = end + 1 - text;
    }
    free(text);
    return PC_OK;
}

pc_status metrics_open(metrics *m, const char *folder, int64_t from)
{
    off_t keep = 0;
    *m = (metrics){.fd = -1, .board = {.fd = -1}};
    snprintf(m->path, sizeof m->path, "%.4000s/metrics.jsonl", folder);
    pc_status st = kept_bytes(&keep, m->path, from);
    if (st) return st;
    m->buffer = malloc(METRICS_BUFFER);
    if (!m->buffer) return pc_fail(PC_ERR_MEMORY, "metrics");
    m->fd = open(m->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (m->fd < 0 || ftruncate(m->fd, keep) || lseek(m->fd, keep, SEEK_SET) != keep) {
        st = pc_fail_errno("'%s'", m->path);
        metrics_close(m);
        return st;
    }
    m->flushed = pc_seconds();
    return tensorboard_open(&m->board, folder, from);
}

static pc_status write_out(metrics *m)
{
    size_t done = 0;
    while (done < m->used) {
        const ssize_t n = write(m->fd, m->buffer + done, m->used - done);
        if (n < 0) return pc_fail_errno("'%s'", m->path);
        done += (size_t)n;
    }
    m->used = 0;
    m->flushed = pc_seconds();
    return tensorboard_flush(&m->board);
}

pc_status metrics_flush(metrics *m)
{
    if (m->fd < 0) return PC_OK;
    pc_status st = write_out(m);
    if (!st && fdatasync(m->fd)) st = pc_fail_errno("'%s'", m->path);
    return st;
}

void metrics_close(metrics *m)
{
    if (m->fd >= 0) close(m->fd);
    free(m->buffer);
    tensorboard_close(&m->board);
    *m = (metrics){.fd = -1, .board = {.fd = -1}};
}

// ---- a line --------------------------------------------------------------------------------------

typedef struct text_line {
    char text[LINE];
    size_t n;
} text_line;

static void put(text_line *l, const char *fmt, ...) PC_PRINTF(2, 3);
static void put(text_line *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(l->text + l->n, LINE - l->n, fmt, args);
    va_end(args);
    if (n > 0) l->n = l->n + (size_t)n < LINE ? l->n + (size_t)n : LINE - 1;
}

// A type's name as a JSON text: names come from data files.
static void put_name(text_line *l, const char *name)
{
    put(l, "\"");
    for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
        if (*c == '"' || *c == '\\')
            put(l, "\\%c", *c);
        else if (*c < 32)
            put(l, "\\u%04x", *c);
        else
            put(l, "%c", *c);
    }
    put(l, "\"");
}

static void put_validation(text_line *l, const validation *v)
{
    put(l, ", \"val_loss\": %.9g, \"val_samples\": %lld, \"val_seconds\": %.3f", v->loss,
        (long long)v->samples, v->seconds);
    if (!v->answers) {
        put(l, ", \"val_recall_image\": %.6f, \"val_recall_text\": %.6f", v->recall_image,
            v->recall_text);
        put(l, ", \"val_recall5_image\": %.6f, \"val_recall5_text\": %.6f", v->recall5_image,
            v->recall5_text);
        return;
    }
    put(l, ", \"val_accuracy\": %.6f, \"val_answers\": %lld, \"val_token_accuracy\": %.6f",
        validation_accuracy(v), (long long)v->answers,
        (double)v->tokens_right / (double)(v->tokens ? v->tokens : 1));
    put(l, ", \"val_types\": {");
    for (int i = 0; i < v->n_types; i++) {
        put(l, i ? ", " : "");
        put_name(l, v->types[i].name);
        put(l, ": [%lld, %lld]", (long long)v->types[i].right, (long long)v->types[i].count);
    }
    put(l, "}");
}

static int board_values(tensorboard_value *out, char tags[][80], const step_metrics *s)
{
    int n = 0;
    const double seconds = s->seconds > 0 ? s->seconds : 1e-9;
    out[n++] = (tensorboard_value){"train/loss", s->loss};
    out[n++] = (tensorboard_value){"train/learning_rate", s->lr};
    out[n++] = (tensorboard_value){"train/gradient_norm", s->grad_norm};
    out[n++] = (tensorboard_value){"speed/samples_per_second", (double)s->samples / seconds};
    out[n++] = (tensorboard_value){"speed/gflops", 1e-9 * s->flops / seconds};
    if (!s->val) return n;
    out[n++] = (tensorboard_value){"val/loss", s->val->loss};
    if (!s->val->answers) {
        out[n++] = (tensorboard_value){"val/recall_image_to_text", s->val->recall_image};
        out[n++] = (tensorboard_value){"val/recall_text_to_image", s->val->recall_text};
        return n;
    }
    out[n++] = (tensorboard_value){"val/accuracy", validation_accuracy(s->val)};
    for (int i = 0; i < s->val->n_types; i++) {
        const validation_type *t = &s->val->types[i];
        snprintf(tags[i], 80, "val/accuracy_%.40s", t->name);
        out[n++] = (tensorboard_value){tags[i], (double)t->right / (double)t->count};
    }
    return n;
}

pc_status metrics_write(metrics *m, const step_metrics *s)
{
    text_line l = {.n = 0};
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    m->peak_memory = (int64_t)usage.ru_maxrss * 1024;
    m->total_seconds += s->seconds;
    m->total_flops += s->flops;
    m->written++;
    const double seconds = s->seconds > 0 ? s->seconds : 1e-9;
    put(&l,
        "{\"step\": %lld, \"epoch\": %lld, \"loss\": %.9g, \"lr\": %.9g, \"grad_norm\": %.9g, "
        "\"samples\": %lld, \"skipped\": %lld, \"tokens\": %lld, \"supervised\": %lld, \"images\": "
        "%lld, "
        "\"seconds\": %.6f, \"waited\": %.6f, \"tokens_per_s\": %.1f, \"flops_per_s\": %.4g, "
        "\"memory\": %lld",
        (long long)s->step, (long long)s->epoch, s->loss, s->lr, s->grad_norm,
        (long long)s->samples, (long long)s->skipped, (long long)s->tokens,
        (long long)s->supervised, (long long)s->images, s->seconds, s->waited,
        (double)s->tokens / seconds, s->flops / seconds, (long long)m->peak_memory);
    if (s->val) put_validation(&l, s->val);
    put(&l, "}\n");

    tensorboard_value values[16 + VALIDATION_TYPES];
    char tags[VALIDATION_TYPES][80];
    pc_status st = tensorboard_write(&m->board, s->step, values, board_values(values, tags, s));
    if (!st && m->used + l.n > METRICS_BUFFER) st = write_out(m);
    if (st) return st;
    memcpy(m->buffer + m->used, l.text, l.n);
    m->used += l.n;
    return pc_seconds() - m->flushed > FLUSH_EVERY ? write_out(m) : PC_OK;
}
