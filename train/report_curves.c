/*
 * report_curves.c - the run's numbers as curves.
 *
 * Curves of many steps are drawn through at most POINTS means of equal stretches; the strong line is an
 * exponential moving mean over about a hundredth of the run.
 */
#include "train/report.h"

#include "model/core/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 500, WIDTH = 560, HEIGHT = 240, LEFT = 58, RIGHT = 14, TOP = 34, BOTTOM = 30 };

// ---- metrics.jsonl back into numbers ---------------------------------------------------------------

static double *column(int64_t n)
{
    return calloc((size_t)n + 1, sizeof(double));
}

static pc_status make_columns(history *h, int64_t lines)
{
    double **all[] = {&h->step,          &h->loss,     &h->lr,       &h->norm,
                      &h->samples_per_s, &h->memory,   &h->waited,   &h->seconds,
                      &h->flops_per_s,   &h->val_step, &h->val_loss, &h->val_score,
                      &h->val_score2};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (!(*all[i] = column(lines))) return pc_fail(PC_ERR_MEMORY, "report");
    return PC_OK;
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static pc_status add_types(history *h, const json_t *types, int64_t lines)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)types, name, v)
    {
        int i = 0;
        while (i < h->n_types && strcmp(h->types[i].name, name) != 0) i++;
        if (i == VALIDATION_TYPES) continue;
        if (i == h->n_types) {
            snprintf(h->types[i].name, sizeof h->types[i].name, "%s", name);
            if (!(h->types[i].accuracy = column(lines))) return pc_fail(PC_ERR_MEMORY, "report");
            for (int64_t k = 0; k < lines; k++) h->types[i].accuracy[k] = NAN;
            h->n_types++;
        }
        const double right = json_number_value(json_array_get(v, 0));
        const double count = json_number_value(json_array_get(v, 1));
        if (count > 0) h->types[i].accuracy[h->vals] = right / count;
    }
    return PC_OK;
}

static pc_status add_line(history *h, const json_t *o, int64_t lines)
{
    const int64_t n = h->count++;
    h->step[n] = number(o, "step");
    h->loss[n] = number(o, "loss");
    h->lr[n] = number(o, "lr");
    h->norm[n] = number(o, "grad_norm");
    h->seconds[n] = number(o, "seconds");
    h->samples_per_s[n] = number(o, "samples") / fmax(1e-9, h->seconds[n]);
    h->flops_per_s[n] = number(o, "flops_per_s");
    h->memory[n] = number(o, "memory");
    h->waited[n] = number(o, "waited");
    h->samples += number(o, "samples");
    h->tokens += number(o, "tokens");
    h->skipped += number(o, "skipped");
    if (isnan(number(o, "val_loss"))) return PC_OK;
    const bool answers = json_object_get(o, "val_accuracy") != NULL;
    h->val_step[h->vals] = h->step[n];
    h->val_loss[h->vals] = number(o, "val_loss");
    h->val_score[h->vals] = number(o, answers ? "val_accuracy" : "val_recall_image");
    h->val_score2[h->vals] = number(o, "val_recall_text");
    pc_status st = add_types(h, json_object_get(o, "val_types"), lines);
    h->vals++;
    return st;
}

pc_status history_open(history *h, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    int64_t lines = 0;
    *h = (history){0};
    pc_status st = pc_file_read(&text, &size, path, (size_t)1 << 32);
    if (st) return st;
    for (const char *c = text; (c = strchr(c, '\n')); c++) lines++;
    st = make_columns(h, lines);
    for (char *line = text, *end; !st && (end = strchr(line, '\n')); line = end + 1) {
        json_t *o = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (o) st = add_line(h, o, lines);
        json_decref(o);
    }
    free(text);
    if (st) history_close(h);
    return st;
}

void history_close(history *h)
{
    double *all[] = {h->step,      h->loss,       h->lr,          h->norm,     h->samples_per_s,
                     h->memory,    h->waited,     h->flops_per_s, h->val_step, h->val_loss,
                     h->val_score, h->val_score2, h->seconds};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    for (int i = 0; i < h->n_types; i++) free(h->types[i].accuracy);
    *h = (history){0};
}

// ---- a chart -------------------------------------------------------------------------------------

typedef struct frame {
    double x0, x1, y0, y1; // what the axes span; y in logarithms with `log`
    bool log, percent;
} frame;

static double place_x(const frame *f, double x)
{
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const frame *f, double y)
{
    if (f->log) y = log10(y);
    return HEIGHT - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static bool drawn(const frame *f, double y)
{
    return isfinite(y) && (!f->log || y > 0);
}

static void widen(frame *f, double x, double y)
{
    if (f->log) y = log10(y);
    f->x0 = fmin(f->x0, x);
    f->x1 = fmax(f->x1, x);
    f->y0 = fmin(f->y0, y);
    f->y1 = fmax(f->y1, y);
}

// A step of 1, 2 or 5 times a power of ten that cuts the span into about n.
static double nice_step(double range, int n)
{
    const double raw = range / n, power = pow(10.0, floor(log10(raw)));
    const double lead = raw / power;
    return power * (lead < 1.5 ? 1.0 : lead < 3.5 ? 2.0 : lead < 7.5 ? 5.0 : 10.0);
}

static void tick_text(char *buf, size_t size, double v, bool percent)
{
    const double a = fabs(v);
    if (percent)
        snprintf(buf, size, "%.3g %%", 100.0 * v);
    else if (a >= 1e9)
        snprintf(buf, size, "%.3gG", v / 1e9);
    else if (a >= 1e6)
        snprintf(buf, size, "%.3gM", v / 1e6);
    else if (a >= 1e4)
        snprintf(buf, size, "%.3gk", v / 1e3);
    else if (a > 0 && a < 1e-2)
        snprintf(buf, size, "%.1e", v);
    else
        snprintf(buf, size, "%.4g", v);
}

static void grid(FILE *out, const frame *f)
{
    char text[32];
    if (f->log) {
        const int from = (int)ceil(f->y0 - 1e-9), to = (int)floor(f->y1 + 1e-9);
        const int every = (to - from) / 6 + 1;
        for (int e = from; e <= to; e += every) {
            const double y = place_y(f, pow(10.0, e));
            tick_text(text, sizeof text, pow(10.0, e), f->percent);
            fprintf(out, "<path class=grid d='M%d %.1fH%d'/><text class=ty x=%d y=%.1f>%s</text>\n",
                    LEFT, y, WIDTH - RIGHT, LEFT - 7, y + 4, text);
        }
    } else {
        const double step = nice_step(f->y1 - f->y0, 5);
        const int from = (int)ceil(f->y0 / step - 1e-9), to = (int)floor(f->y1 / step + 1e-6);
        for (int k = from; k <= to; k++) {
            const double y = place_y(f, k * step);
            tick_text(text, sizeof text, k * step, f->percent);
            fprintf(out, "<path class=grid d='M%d %.1fH%d'/><text class=ty x=%d y=%.1f>%s</text>\n",
                    LEFT, y, WIDTH - RIGHT, LEFT - 7, y + 4, text);
        }
    }
    const double step = fmax(1.0, nice_step(f->x1 - f->x0, 6));
    const int first = (int)ceil(f->x0 / step), last = (int)floor(f->x1 / step + 1e-6);
    for (int k = first; k <= last; k++) {
        tick_text(text, sizeof text, k * step, false);
        fprintf(out, "<text class=tx x=%.1f y=%d>%s</text>\n", place_x(f, k * step), HEIGHT - 10,
                text);
    }
}

// Means of equal stretches; returns how many.
static int thin(double *x, double *y, const curve *c, const frame *f)
{
    int n = 0;
    const int64_t pieces = c->count < POINTS ? c->count : POINTS;
    for (int64_t p = 0; p < pieces; p++) {
        const int64_t begin = c->count * p / pieces, end = c->count * (p + 1) / pieces;
        double sx = 0.0, sy = 0.0, k = 0.0;
        for (int64_t i = begin; i < end; i++)
            if (drawn(f, c->y[i])) sx += c->x[i], sy += c->y[i], k += 1.0;
        if (k == 0.0) continue;
        x[n] = sx / k;
        y[n++] = sy / k;
    }
    return n;
}

static void line(FILE *out, const frame *f, const double *x, const double *y, int n, int colour,
                 const char *kind)
{
    if (n == 0) return;
    fprintf(out, "<path class='line%s c%d' d='", kind, colour);
    for (int i = 0; i < n; i++)
        fprintf(out, "%c%.1f %.1f", i ? 'L' : 'M', place_x(f, x[i]), place_y(f, y[i]));
    fprintf(out, "'/>\n");
}

static void draw_curve(FILE *out, const frame *f, const curve *c)
{
    double x[POINTS], y[POINTS];
    const int n = thin(x, y, c, f);
    line(out, f, x, y, n, c->colour, c->smooth ? " faint" : "");
    if (c->marks)
        for (int i = 0; i < n; i++) {
            char text[32];
            tick_text(text, sizeof text, y[i], f->percent);
            fprintf(out,
                    "<circle class='dot c%d' cx=%.1f cy=%.1f r=3><title>%s, step %.0f: %s"
                    "</title></circle>\n",
                    c->colour, place_x(f, x[i]), place_y(f, y[i]), c->label, x[i], text);
        }
    if (!c->smooth || n == 0) return;
    const double keep = exp(-120.0 / fmax(120.0, n));
    double mean = y[0];
    for (int i = 0; i < n; i++) y[i] = mean = keep * mean + (1.0 - keep) * y[i];
    line(out, f, x, y, n, c->colour, "");
}

static void legend(FILE *out, const curve *curves, int n)
{
    fprintf(out, "<div class=legend>");
    for (int i = 0; i < n; i++) {
        fprintf(out, "<span><i class='c%d'></i>", curves[i].colour);
        pc_html_text(out, curves[i].label);
        fprintf(out, "</span>");
    }
    fprintf(out, "</div>\n");
}

void chart_write(FILE *out, const char *title, const curve *curves, int n, double level,
                 const char *level_label, bool percent, bool log_scale)
{
    frame f = {INFINITY, -INFINITY, INFINITY, -INFINITY, log_scale, percent};
    double x[POINTS], y[POINTS];
    for (int i = 0; i < n; i++) {
        const int k = thin(x, y, &curves[i], &f);
        for (int j = 0; j < k; j++) widen(&f, x[j], y[j]);
    }
    if (!isfinite(f.x0)) return; // nothing to draw
    if (isfinite(level) && drawn(&f, level)) widen(&f, f.x0, level);
    if (percent) f.y0 = 0.0;
    if (!log_scale && !percent && f.y0 > 0 && f.y0 < 0.6 * f.y1) f.y0 = 0.0;
    if (!(f.x1 > f.x0)) f.x0 -= 1.0, f.x1 += 1.0;
    if (!(f.y1 > f.y0)) f.y0 -= 0.5 * fabs(f.y0) + 1e-9, f.y1 += 0.5 * fabs(f.y1) + 1e-9;
    const double room = 0.04 * (f.y1 - f.y0);
    f.y1 += room;
    if (log_scale) f.y0 -= room;

    fprintf(out, "<figure><svg viewBox='0 0 %d %d' role=img><title>", WIDTH, HEIGHT);
    pc_html_text(out, title);
    fprintf(out, "</title><text class=title x=%d y=18>", LEFT);
    pc_html_text(out, title);
    fprintf(out, "</text>\n");
    grid(out, &f);
    if (isfinite(level) && drawn(&f, level)) {
        const double at = place_y(&f, level);
        fprintf(out, "<path class=level d='M%d %.1fH%d'/><text class=lt x=%d y=%.1f>", LEFT, at,
                WIDTH - RIGHT, WIDTH - RIGHT, at - 5);
        pc_html_text(out, level_label);
        fprintf(out, "</text>\n");
    }
    for (int i = 0; i < n; i++) draw_curve(out, &f, &curves[i]);
    fprintf(out, "</svg>");
    if (n > 1 || curves[0].marks) legend(out, curves, n);
    fprintf(out, "</figure>\n");
}
