/*
 * report_page.c - the page around curves and examples.
 */
#include "train/report.h"

#include "model/core/file.h"
#include "train/state.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

// Text on paper, figures first. Two palettes, one rhythm; widths follow the window.
static const char style[] =
    ":root{--ink:#1d2329;--soft:#5b6570;--line:#d9dee3;--page:#fbfbf9;--card:#fff;--ok:#1a7f4b;--"
    "no:#b3372f;"
    "--c0:#2460a7;--c1:#c2571a;--c2:#2b8a5f;--c3:#8a4fae;--c4:#b08900;--c5:#b33a5e;--c6:#3d8f9e;--"
    "c7:#6b6b6b}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#9aa5b0;--line:#333b43;--page:#"
    "14181c;"
    "--card:#1b2026;--ok:#5cc98f;--no:#ef8279;--c0:#6ea8ef;--c1:#f0935a;--c2:#5fc493;--c3:#c08ee3;-"
    "-c4:#e0bd4a;"
    "--c5:#ee7f9f;--c6:#72c5d4;--c7:#a5a5a5}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    "main{max-width:1240px;margin:0 auto;padding:36px 24px 64px}"
    "h1{font-size:27px;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:44px 0 14px}"
    ".sub{color:var(--soft);margin:4px 0 24px}"
    ".heads{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:12px}"
    ".head{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px "
    "16px}"
    ".head "
    "b{display:block;font-size:22px;line-height:1.25;font-weight:600;font-variant-numeric:tabular-"
    "nums}"
    ".head span{color:var(--soft);font-size:13px}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:"
    "14px}"
    "figure{margin:0;background:var(--card);border:1px solid "
    "var(--line);border-radius:10px;padding:10px 10px 8px}"
    "svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}"
    ".title{fill:var(--ink)!important;font-size:13px!important;font-weight:600}"
    ".ty{text-anchor:end}.tx{text-anchor:middle}.lt{text-anchor:end}"
    ".grid{stroke:var(--line);stroke-width:1}.level{stroke:var(--soft);stroke-dasharray:5 4}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}.faint{opacity:.28;stroke-width:1}"
    ".legend{display:flex;flex-wrap:wrap;gap:2px 14px;padding:2px 8px 4px "
    "48px;font-size:12px;color:var(--soft)}"
    ".legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}"
    ".samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:14px}"
    ".sample{background:var(--card);border:1px solid "
    "var(--line);border-radius:10px;overflow:hidden}"
    ".sample img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--line);"
    "image-rendering:auto}"
    ".sample dl{margin:0;padding:4px 14px 12px}.sample dt{margin-top:9px;font-size:14px}"
    ".sample dd{margin:0;font-size:14px}.sample small{color:var(--soft)}"
    ".ok{color:var(--ok)}.no{color:var(--no)}"
    "table{border-collapse:collapse;background:var(--card);border:1px solid "
    "var(--line);border-radius:10px;"
    "font-variant-numeric:tabular-nums}th,td{padding:6px 16px;text-align:left;border-top:1px solid "
    "var(--line)}"
    "tr:first-child>*{border-top:0}th{font-weight:600}td.n,th.n{text-align:right}"
    ".bar{display:inline-block;height:9px;border-radius:2px;background:var(--c0);vertical-align:"
    "baseline}"
    ".tables{display:flex;flex-wrap:wrap;gap:20px;align-items:flex-start}"
    "pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px "
    "16px;overflow:auto;"
    "font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace}details "
    "summary{cursor:pointer;color:var(--soft)}";

// ---- figures at the head ---------------------------------------------------------------------------

static void head(FILE *out, const char *label, const char *fmt, ...) PC_PRINTF(3, 4);
static void head(FILE *out, const char *label, const char *fmt, ...)
{
    char text[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fprintf(out, "<div class=head><b>%s</b><span>", text);
    pc_html_text(out, label);
    fprintf(out, "</span></div>\n");
}

static const char *duration(char *buf, size_t size, double seconds)
{
    const long s = lround(seconds);
    if (s < 60)
        snprintf(buf, size, "%ld s", s);
    else if (s < 3600)
        snprintf(buf, size, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(buf, size, "%ld h %02ld min", s / 3600, s / 60 % 60);
    return buf;
}

static double sum(const double *x, int64_t n)
{
    double s = 0.0;
    for (int64_t i = 0; i < n; i++) s += isfinite(x[i]) ? x[i] : 0.0;
    return s;
}

static void heads(FILE *out, const report_input *in, const history *h)
{
    const run *u = in->run;
    const validation *v = in->val;
    char text[64];
    const double seconds = sum(h->seconds, h->count);
    double flops = 0.0;
    for (int64_t i = 0; i < h->count; i++) flops += h->flops_per_s[i] * h->seconds[i];
    fprintf(out, "<div class=heads>\n");
    if (v && v->answers) {
        head(out, "of validation answers right", "%.1f %%", 100.0 * validation_accuracy(v));
        head(out, "validation loss a token", "%.3f", v->loss);
    } else if (v) {
        head(out, "images find their caption first", "%.1f %%", 100.0 * v->recall_image);
        head(out, "captions find their image first", "%.1f %%", 100.0 * v->recall_text);
        head(out, "a guesser finds", "%.2f %%", 100.0 / (double)(v->samples ? v->samples : 1));
    }
    if (h->count) head(out, "last training loss", "%.3f", h->loss[h->count - 1]);
    head(out, "loss of knowing nothing", "%.3f", u->chance);
    head(out, "optimiser steps", "%lld", (long long)u->state.step);
    head(out, "samples seen", "%.0f", h->samples);
    head(out, "spent on steps", "%s", duration(text, sizeof text, seconds));
    head(out, "GFLOP/s computed", "%.1f", 1e-9 * flops / fmax(seconds, 1e-9));
    fprintf(out, "</div>\n");
}

// ---- curves --------------------------------------------------------------------------------------

static void charts(FILE *out, const run *u, const history *h)
{
    const bool clip = u->model->config.kind == PC_MODEL_CLIP;
    char level[64];
    snprintf(level, sizeof level, "chance %.2f", u->chance);
    fprintf(out, "<h2>Curves</h2><div class=charts>\n");
    curve loss[2] = {{"training loss", h->step, h->loss, h->count, 0, true, false},
                     {"validation loss", h->val_step, h->val_loss, h->vals, 1, false, true}};
    chart_write(out, "Loss", loss, h->vals ? 2 : 1, u->chance, level, false, false);

    if (h->vals) {
        curve score[2] = {{clip ? "image to caption" : "answers right", h->val_step, h->val_score,
                           h->vals, 0, false, true},
                          {"caption to image", h->val_step, h->val_score2, h->vals, 1, false,
                           true}};
        chart_write(out, clip ? "Recall at 1, validation" : "Answers right, validation", score,
                    clip ? 2 : 1, NAN, "", true, false);
    }
    if (h->n_types > 1) {
        curve types[8];
        const int n = h->n_types < 8 ? h->n_types : 8;
        for (int i = 0; i < n; i++)
            types[i] = (curve){
                h->types[i].name, h->val_step, h->types[i].accuracy, h->vals, i, false, true};
        chart_write(out, "Answers right by type of question", types, n, NAN, "", true, false);
    }
    curve lr = {"learning rate", h->step, h->lr, h->count, 2, false, false};
    chart_write(out, "Learning rate", &lr, 1, NAN, "", false, false);
    curve norm = {"gradient norm", h->step, h->norm, h->count, 3, true, false};
    char clipped[64];
    snprintf(clipped, sizeof clipped, "clipped at %.3g", u->recipe->optim.clip);
    chart_write(out, "Gradient norm, before clipping", &norm, 1,
                u->recipe->optim.clip > 0 ? u->recipe->optim.clip : NAN, clipped, false, true);
    curve speed = {"samples per second", h->step, h->samples_per_s, h->count, 6, true, false};
    chart_write(out, "Samples per second", &speed, 1, NAN, "", false, false);
    fprintf(out, "</div>\n");
}

// ---- tables --------------------------------------------------------------------------------------

static void type_table(FILE *out, const validation *v)
{
    if (!v || !v->answers) return;
    fprintf(out, "<table><tr><th>question</th><th class=n>right</th><th class=n>of</th>"
                 "<th class=n>share</th><th></th></tr>\n");
    for (int i = 0; i < v->n_types; i++) {
        const validation_type *t = &v->types[i];
        const double share = (double)t->right / (double)(t->count ? t->count : 1);
        fprintf(out, "<tr><td>");
        pc_html_text(out, t->name);
        fprintf(out,
                "</td><td class=n>%lld</td><td class=n>%lld</td><td class=n>%.1f %%</td><td>"
                "<span class=bar style='width:%.0fpx'></span></td></tr>\n",
                (long long)t->right, (long long)t->count, 100.0 * share, 1.0 + 120.0 * share);
    }
    fprintf(out, "</table>\n");
}

static void memory_row(FILE *out, const char *label, double planned)
{
    char text[32];
    if (planned <= 0) return;
    fprintf(out, "<tr><td>%s</td><td class=n>%s</td></tr>\n", label,
            plan_bytes(text, sizeof text, planned));
}

static void plan_table(FILE *out, const report_input *in, const history *h)
{
    const plan *p = &in->run->plan;
    double peak = 0.0;
    for (int64_t i = 0; i < h->count; i++) peak = fmax(peak, h->memory[i]);
    fprintf(out, "<table><tr><th>memory</th><th class=n>planned</th></tr>\n");
    memory_row(out, "parameters", (double)p->parameters);
    memory_row(out, "gradients", (double)p->gradients);
    memory_row(out, "AdamW's moments", (double)p->moments);
    memory_row(out, "activations", (double)p->activations);
    memory_row(out, "scratch", (double)p->scratch);
    memory_row(out, "whole batch", (double)p->whole);
    memory_row(out, "data", (double)p->data);
    memory_row(out, "<b>in all</b>", (double)p->total);
    memory_row(out, "<b>used at most</b>, program and libraries included", peak);
    fprintf(out, "</table>\n");
}

static void time_table(FILE *out, const run *u, const history *h)
{
    const double seconds = sum(h->seconds, h->count), waited = sum(h->waited, h->count);
    double flops = 0.0;
    for (int64_t i = 0; i < h->count; i++) flops += h->flops_per_s[i] * h->seconds[i];
    const double steps = h->count ? (double)h->count : 1.0;
    fprintf(out, "<table><tr><th>time and work</th><th></th></tr>\n");
    fprintf(out, "<tr><td>a step</td><td class=n>%.2f ms</td></tr>\n", 1e3 * seconds / steps);
    fprintf(out, "<tr><td>of it waiting for data</td><td class=n>%.2f %%</td></tr>\n",
            100.0 * waited / fmax(seconds, 1e-9));
    fprintf(out, "<tr><td>FLOPs planned, full step</td><td class=n>%.3g</td></tr>\n",
            u->plan.flops_step);
    fprintf(out, "<tr><td>FLOPs used, mean step</td><td class=n>%.3g</td></tr>\n", flops / steps);
    fprintf(out, "<tr><td>in all</td><td class=n>%.3g</td></tr>\n", flops);
    fprintf(out, "<tr><td>samples skipped</td><td class=n>%.0f</td></tr>\n", h->skipped);
    fprintf(out, "<tr><td>tokens read</td><td class=n>%.0f</td></tr></table>\n", h->tokens);
}

static void version_table(FILE *out, const run *u)
{
    struct utsname name;
    pc_isa isa = PC_ISA_REF;
    char host[256] = "";
    (void)pc_isa_choose(&isa);
    if (!uname(&name)) snprintf(host, sizeof host, "%.60s %.60s", name.sysname, name.machine);
    fprintf(out, "<table><tr><th>made with</th><th></th></tr>\n");
    fprintf(out, "<tr><td>percept-train</td><td>%s</td></tr>\n", PERCEPT_VERSION);
    fprintf(out, "<tr><td>compiler</td><td>%s</td></tr>\n", __VERSION__);
    fprintf(out, "<tr><td>jansson</td><td>%s</td></tr>\n", jansson_version_str());
    fprintf(out, "<tr><td>machine</td><td>%s, %s</td></tr>\n", host, pc_isa_name(isa));
    fprintf(out, "<tr><td>threads</td><td>%d, %s</td></tr>\n", u->threads,
            u->request.samples ? "each its own micro-batches" : "sharing every operation");
    fprintf(out, "<tr><td>seed</td><td>%lld</td></tr></table>\n", (long long)u->recipe->top.seed);
}

static pc_status recipe_section_html(FILE *out, const run *u)
{
    char *yaml = NULL;
    pc_status st = recipe_to_yaml(&yaml, u->recipe, true);
    if (st) return st;
    fprintf(
        out,
        "<h2>Recipe, as resolved</h2><details><summary>every key with its value</summary><pre>");
    pc_html_text(out, yaml);
    fprintf(out, "</pre></details>\n");
    free(yaml);
    return PC_OK;
}

// ---- the page ------------------------------------------------------------------------------------

static pc_status page(FILE *out, const report_input *in, const history *h)
{
    run *u = in->run;
    char when[64] = "";
    const time_t now = time(NULL);
    struct tm tm;
    if (localtime_r(&now, &tm)) strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
    fprintf(out, "<!doctype html><html lang=en><head><meta charset=utf-8>"
                 "<meta name=viewport content='width=device-width,initial-scale=1'><title>");
    pc_html_text(out, u->recipe->top.name);
    fprintf(out, "</title><style>%s", style);
    for (int i = 0; i < 8; i++)
        fprintf(out,
                ".line.c%d{stroke:var(--c%d)}.dot.c%d{fill:var(--c%d)}i.c%d{background:var(--c%d)}",
                i, i, i, i, i, i);
    fprintf(out, "</style></head><body><main><h1>");
    pc_html_text(out, u->recipe->top.name);
    fprintf(
        out,
        "</h1><p class=sub>stage %s, %lld training samples, %lld for validation; written %s</p>\n",
        recipe_word("stage", u->recipe->top.stage), (long long)u->train.count,
        (long long)u->shown.count, when);
    heads(out, in, h);
    charts(out, u, h);
    pc_status st = PC_OK;
    if (u->shown.count && u->recipe->report.samples)
        st = report_samples(out, u, u->recipe->report.samples);
    fprintf(out, "<h2>Figures</h2><div class=tables>\n");
    type_table(out, in->val);
    plan_table(out, in, h);
    time_table(out, u, h);
    version_table(out, u);
    fprintf(out, "</div>\n");
    if (!st) st = recipe_section_html(out, u);
    fprintf(out, "</main></body></html>\n");
    return st;
}

pc_status report_write(const report_input *in)
{
    char path[4096], *text = NULL;
    size_t size = 0;
    history h;
    pc_status st = history_open(&h, state_path(path, in->run->recipe, "metrics.jsonl"));
    if (st) return pc_context(st, "report");
    FILE *out = open_memstream(&text, &size);
    if (!out) st = pc_fail(PC_ERR_MEMORY, "report");
    if (!st) st = page(out, in, &h);
    if (out && fclose(out) && !st) st = pc_fail(PC_ERR_MEMORY, "report");
    if (!st) st = pc_file_write(state_path(path, in->run->recipe, "report.html"), text, size);
    free(text);
    history_close(&h);
    return pc_context(st, "report");
}
