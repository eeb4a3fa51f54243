/*
 * towers.c - retrieval and zero-shot classification (spec: eval.md 5, 6).
 */
#include "infer/evaluate/suites.h"

#include "data/datasets/dataset.h"
#include "data/metrics/classification.h"
#include "data/metrics/retrieval.h"
#include "infer/evaluate/labels.h"
#include "model/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- retrieval ---------------------------------------------------------------------------------

typedef struct pairs {
    pc_dataset data;
    const char **image, **caption; // (I), (T)
    int64_t *owner;                // (T)
    int64_t I, T;
    float *U, *V, *S;
    int64_t *rank_image, *rank_text;
} pairs;

static void pairs_close(pairs *p)
{
    free(p->image);
    free(p->caption);
    free(p->owner);
    free(p->U);
    free(p->V);
    free(p->S);
    free(p->rank_image);
    free(p->rank_text);
    pc_dataset_close(&p->data);
    memset(p, 0, sizeof *p);
}

static pc_status pairs_open(pairs *p, int64_t E, const suite_input *in)
{
    const pc_source source = {.path = in->data, .images = in->images, .weight = 1.0};
    pc_status st;

    memset(p, 0, sizeof *p);
    if ((st = pc_dataset_open(&p->data, &source, 1, PC_BAD_ERROR))) return st;
    p->I = in->samples > 0 && in->samples < p->data.count ? in->samples : p->data.count;
    for (int64_t i = 0; i < p->I; i++) {
        const pc_sample *s = &p->data.samples[suite_pick(i, p->I, p->data.count)];
        if (!s->n_captions || !s->image)
            return pc_fail(PC_ERR_INPUT,
                           "%s:%lld: a row without %s; retrieval takes captions of images", s->file,
                           (long long)s->line, s->image ? "captions" : "an image");
        p->T += in->captions > 0 && in->captions < s->n_captions ? in->captions : s->n_captions;
    }
    const size_t I = (size_t)p->I, T = (size_t)p->T, e = (size_t)E;
    p->image = calloc(I + 1, sizeof *p->image);
    p->caption = calloc(T + 1, sizeof *p->caption);
    p->owner = calloc(T + 1, sizeof *p->owner);
    p->U = malloc((I * e + 1) * sizeof *p->U);
    p->V = malloc((T * e + 1) * sizeof *p->V);
    p->S = malloc((I * T + 1) * sizeof *p->S);
    p->rank_image = calloc(I + 1, sizeof *p->rank_image);
    p->rank_text = calloc(T + 1, sizeof *p->rank_text);
    if (!p->image || !p->caption || !p->owner || !p->U || !p->V || !p->S || !p->rank_image ||
        !p->rank_text)
        return pc_fail(PC_ERR_MEMORY, "%lld images and %lld captions", (long long)p->I,
                       (long long)p->T);
    int64_t t = 0;
    for (int64_t i = 0; i < p->I; i++) {
        const pc_sample *s = &p->data.samples[suite_pick(i, p->I, p->data.count)];
        p->image[i] = s->image;
        for (int64_t c = 0; c < s->n_captions && (!in->captions || c < in->captions); c++) {
            p->owner[t] = i;
            p->caption[t++] = s->captions[c];
        }
    }
    return PC_OK;
}

static json_t *recall_json(const pc_recall *r)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "r1", r->r1, "r5", r->r5, "r10",
                     r->r10, "mean_rank", r->mean, "median_rank", r->median, "chance_r1",
                     r->chance1, "queries", (json_int_t)r->queries, "candidates",
                     (json_int_t)r->candidates);
}

static pc_status recall_row(json_t *table, const char *name, const pc_recall *r)
{
    char n[64], rank[64];
    snprintf(n, sizeof n, "%lld in %lld", (long long)r->queries, (long long)r->candidates);
    snprintf(rank, sizeof rank, "%g / %.1f", r->median, r->mean);
    return suite_row(table, name, n, suite_percent(r->r1), suite_percent(r->r5),
                     suite_percent(r->r10), suite_percent(r->chance1), rank, NULL);
}

// An image, the caption nearest to it, and the rank of the best of its own.
static pc_status retrieval_cards(suite_output *out, const suite_input *in, const pairs *p)
{
    const int64_t take = in->cards < p->I ? in->cards : p->I;
    for (int64_t k = 0; k < take; k++) {
        const int64_t i = suite_pick(k, take, p->I);
        const float *s = p->S + i * p->T;
        int64_t nearest = 0, own = -1;
        char rank[32];
        for (int64_t t = 0; t < p->T; t++) {
            if (s[t] > s[nearest]) nearest = t;
            if (p->owner[t] == i && (own < 0 || s[t] > s[own])) own = t;
        }
        snprintf(rank, sizeof rank, "%lld", (long long)p->rank_image[i]);
        if (json_array_append_new(out->cards,
                                  json_pack("{s:s, s:[[s,s],[s,s],[s,s]], s:b}", "image",
                                            p->image[i], "lines", "nearest", p->caption[nearest],
                                            "its own", p->caption[own], "rank", rank, "right",
                                            p->rank_image[i] == 1)))
            return pc_fail(PC_ERR_MEMORY, "cards");
    }
    return PC_OK;
}

pc_status suite_retrieval(suite_output *out, embedder *e, const suite_input *in)
{
    pairs p = {0};
    pc_retrieval r;
    pc_status st;

    if ((st = suite_begin(out, "retrieval", in)) || (st = pairs_open(&p, e->E, in))) goto out;
    const double start = pc_seconds();
    if ((st = embed_images(e, p.U, p.image, p.I, "retrieval, images")) ||
        (st = embed_texts(e, p.V, p.caption, p.T, "retrieval, captions")) ||
        (st = embed_similarities(e, p.S, p.U, p.I, p.V, p.T)) ||
        (st = pc_retrieval_score(&r, p.S, p.I, p.T, p.owner, p.rank_image, p.rank_text)))
        goto out;
    json_t *o = json_pack("{s:s, s:o, s:o, s:I, s:I, s:f}", "ties", "smaller index first",
                          "image_to_text", recall_json(&r.image_to_text), "text_to_image",
                          recall_json(&r.text_to_image), "images", (json_int_t)p.I, "captions",
                          (json_int_t)p.T, "seconds", pc_seconds() - start);
    const bool failed = !o || json_object_update(out->result, o);
    json_decref(o);
    if (failed) {
        st = pc_fail(PC_ERR_MEMORY, "results");
        goto out;
    }
    if ((st = suite_row(out->table, "from, to", "queries", "R@1", "R@5", "R@10", "chance R@1",
                        "rank median / mean", NULL)) ||
        (st = recall_row(out->table, "image to text", &r.image_to_text)) ||
        (st = recall_row(out->table, "text to image", &r.text_to_image)))
        goto out;
    st = retrieval_cards(out, in, &p);
out:
    pairs_close(&p);
    return st;
}

// ---- classification ----------------------------------------------------------------------------

typedef struct classes {
    labels_file rows;
    int64_t n; // rows picked
    const char **image;
    int64_t *truth;
    float *U, *W, *S;
} classes;

static void classes_close(classes *c)
{
    labels_close(&c->rows);
    free(c->image);
    free(c->truth);
    free(c->U);
    free(c->W);
    free(c->S);
    memset(c, 0, sizeof *c);
}

static pc_status classes_open(classes *c, int64_t E, const suite_input *in)
{
    pc_status st;

    memset(c, 0, sizeof *c);
    if ((st = labels_open(&c->rows, in->data, in->images, in->classes))) return st;
    c->n = in->samples > 0 && in->samples < c->rows.count ? in->samples : c->rows.count;
    const size_t n = (size_t)c->n, C = (size_t)c->rows.classes;
    c->image = calloc(n + 1, sizeof *c->image);
    c->truth = calloc(n + 1, sizeof *c->truth);
    c->U = malloc((n * (size_t)E + 1) * sizeof *c->U);
    c->W = malloc((C * (size_t)E + 1) * sizeof *c->W);
    c->S = malloc((n * C + 1) * sizeof *c->S);
    if (!c->image || !c->truth || !c->U || !c->W || !c->S)
        return pc_fail(PC_ERR_MEMORY, "%lld images, %lld classes", (long long)c->n,
                       (long long)c->rows.classes);
    for (int64_t i = 0; i < c->n; i++) {
        const int64_t k = suite_pick(i, c->n, c->rows.count);
        c->image[i] = c->rows.image[k];
        c->truth[i] = c->rows.label[k];
    }
    return PC_OK;
}

static pc_status classify_cards(suite_output *out, const suite_input *in, const classes *c)
{
    const int64_t take = in->cards < c->n ? in->cards : c->n, C = c->rows.classes;
    for (int64_t k = 0; k < take; k++) {
        const int64_t i = suite_pick(k, take, c->n);
        int64_t top;
        pc_top_classes(&top, c->S + i * C, C, 1);
        if (json_array_append_new(out->cards,
                                  json_pack("{s:s, s:[[s,s],[s,s]], s:b}", "image", c->image[i],
                                            "lines", "label", c->rows.name[top], "truth",
                                            c->rows.name[c->truth[i]], "right",
                                            top == c->truth[i])))
            return pc_fail(PC_ERR_MEMORY, "cards");
    }
    return PC_OK;
}

static pc_status classify_results(suite_output *out, const suite_input *in, const classes *c,
                                  const pc_classification *r, double seconds)
{
    json_t *templates = json_array();
    char n[32], C[32];

    for (int i = 0; i < in->n_templates; i++)
        json_array_append_new(templates, json_string(in->templates[i]));
    json_t *o = json_pack("{s:f, s:o, s:f, s:f, s:I, s:I, s:I, s:o, s:f}", "top1", r->top1,
                          "interval", suite_interval((int64_t)(r->top1 * (double)r->n + 0.5), r->n),
                          "top5", r->top5, "mean_class_recall", r->class_recall, "count",
                          (json_int_t)r->n, "classes", (json_int_t)r->classes, "classes_that_occur",
                          (json_int_t)r->occurring, "templates", templates, "seconds", seconds);
    const bool failed = !o || json_object_update(out->result, o);
    json_decref(o);
    if (failed) return pc_fail(PC_ERR_MEMORY, "results");
    snprintf(n, sizeof n, "%lld", (long long)r->n);
    snprintf(C, sizeof C, "%lld", (long long)r->classes);
    pc_status st;
    if ((st = suite_row(out->table, "images", "classes", "top-1", "top-5", "mean class recall",
                        "chance", NULL)) ||
        (st = suite_row(out->table, n, C, suite_percent(r->top1), suite_percent(r->top5),
                        suite_percent(r->class_recall),
                        suite_percent(1.0 / (double)c->rows.classes), NULL)))
        return st;
    return classify_cards(out, in, c);
}

pc_status suite_classify(suite_output *out, embedder *e, const suite_input *in)
{
    classes c = {0};
    pc_classification r;
    pc_status st;

    if ((st = suite_begin(out, "classify", in)) || (st = classes_open(&c, e->E, in))) goto out;
    const double start = pc_seconds();
    if ((st = embed_classes(e, c.W, (const char *const *)c.rows.name, c.rows.classes, in->templates,
                            in->n_templates)) ||
        (st = embed_images(e, c.U, c.image, c.n, "classify")) ||
        (st = embed_similarities(e, c.S, c.U, c.n, c.W, c.rows.classes)) ||
        (st = pc_classification_score(&r, c.S, c.truth, c.n, c.rows.classes)))
        goto out;
    st = classify_results(out, in, &c, &r, pc_seconds() - start);
out:
    classes_close(&c);
    return st;
}
