/*
 * questions.c - vqa and pope (spec: eval.md 1, 2).
 *
 *   vqa    right when the answer equals the truth after the VQA normalisation; by question type. For what can
 *          be told from the words alone, the same questions without the image and with a grey one, and what the
 *          commonest answer to each type would score in this very file
 *   pope   yes or no: accuracy, precision, recall, F1, yes ratio; evasive answers counted
 *
 * Answers belong to questions by id: they are computed in one list and never re-ordered.
 */
#include "infer/evaluate/suites.h"

#include "data/datasets/dataset.h"
#include "data/metrics/pope.h"
#include "data/metrics/vqa.h"
#include "model/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A file of questions with the answers to those that were picked.
typedef struct asked {
    pc_questions all;
    const pc_question **q; // (n)
    int64_t n;
    char **seen;          // (n) answers
    char **blind, **grey; // (n) answers without the image, and to a grey one; NULL: not asked
    double seconds;       // of the answers with the image
} asked;

static void free_texts(char **list, int64_t n)
{
    for (int64_t i = 0; list && i < n; i++) free(list[i]);
    free(list);
}

static void asked_close(asked *a)
{
    free_texts(a->seen, a->n);
    free_texts(a->blind, a->n);
    free_texts(a->grey, a->n);
    free(a->q);
    pc_questions_close(&a->all);
    memset(a, 0, sizeof *a);
}

static pc_status ask_all(char ***out, answerer *a, const asked *q, const suite_input *in,
                         answer_view view, const char *label)
{
    answer_item *items = calloc((size_t)q->n, sizeof *items);
    char **text = calloc((size_t)q->n, sizeof *text);
    pc_status st;

    if (!items || !text) {
        free(items);
        free(text);
        return pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)q->n);
    }
    for (int64_t i = 0; i < q->n; i++)
        items[i] = (answer_item){.image = q->q[i]->image, .question = q->q[i]->question};
    const answer_options o = {.max_tokens = in->max_tokens,
                              .sampling = {.top_p = 1.0},
                              .suffix = in->suffix,
                              .view = view,
                              .label = label};
    st = answer_all(a, text, items, q->n, &o);
    free(items);
    if (st) {
        free(text);
        return st;
    }
    *out = text;
    return PC_OK;
}

static pc_status asked_open(asked *out, answerer *a, const suite_input *in, const char *suite)
{
    char label[32];
    pc_status st;

    memset(out, 0, sizeof *out);
    if ((st = pc_questions_open(&out->all, in->data, in->images))) return st;
    out->n = in->samples > 0 && in->samples < out->all.count ? in->samples : out->all.count;
    out->q = calloc((size_t)out->n, sizeof *out->q);
    if (!out->q) return pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)out->n);
    for (int64_t i = 0; i < out->n; i++)
        out->q[i] = &out->all.list[suite_pick(i, out->n, out->all.count)];
    const double start = pc_seconds();
    if ((st = ask_all(&out->seen, a, out, in, ANSWER_SEE, suite))) return st;
    out->seconds = pc_seconds() - start;
    if (!in->blind) return PC_OK;
    snprintf(label, sizeof label, "%s, no image", suite);
    if ((st = ask_all(&out->blind, a, out, in, ANSWER_ABSENT, label))) return st;
    snprintf(label, sizeof label, "%s, grey image", suite);
    return ask_all(&out->grey, a, out, in, ANSWER_GREY, label);
}

// What every report must name.
static pc_status conditions(suite_output *out, const answerer *a, const suite_input *in,
                            const asked *q, const char *parser)
{
    json_t *o =
        json_pack("{s:s, s:{s:s, s:s}, s:{s:b, s:I}, s:I, s:f}", "parser", parser, "prompt",
                  "template", pc_template_name(a->bundle->template), "suffix",
                  in->suffix ? in->suffix : "", "decoding", "greedy", 1, "max_tokens",
                  (json_int_t)in->max_tokens, "count", (json_int_t)q->n, "seconds", q->seconds);
    const bool failed = !o || json_object_update(out->result, o);
    json_decref(o);
    return failed ? pc_fail(PC_ERR_MEMORY, "results") : PC_OK;
}

static void write_answers(const suite_input *in, const char *suite, const asked *q,
                          const bool *right)
{
    for (int64_t i = 0; in->answers && i < q->n; i++) {
        const pc_question *x = q->q[i];
        json_t *o = json_pack("{s:s, s:I, s:s*, s:s, s:s, s:s, s:b, s:s*, s:s*}", "suite", suite,
                              "question_id", (json_int_t)x->id, "image", x->image, "question",
                              x->question, "answer", q->seen[i], "truth", x->answer, "right",
                              right[i], "type", x->type, "blind", q->blind ? q->blind[i] : NULL);
        if (o) {
            json_dumpf(o, in->answers, JSON_COMPACT);
            fputc('\n', in->answers);
        }
        json_decref(o);
    }
}

// Cards for the page, evenly spaced over the questions.
static pc_status add_cards(suite_output *out, const suite_input *in, const asked *q,
                           const bool *right)
{
    const int64_t take = in->cards < q->n ? in->cards : q->n;
    for (int64_t k = 0; k < take; k++) {
        const int64_t i = suite_pick(k, take, q->n);
        const pc_question *x = q->q[i];
        json_t *lines = json_pack("[[s,s],[s,s],[s,s]]", "question", x->question, "answer",
                                  q->seen[i], "truth", x->answer);
        if (q->blind) json_array_append_new(lines, json_pack("[s,s]", "no image", q->blind[i]));
        if (json_array_append_new(out->cards, json_pack("{s:s*, s:o, s:b}", "image", x->image,
                                                        "lines", lines, "right", right[i])))
            return pc_fail(PC_ERR_MEMORY, "cards");
    }
    return PC_OK;
}

// ---- vqa ---------------------------------------------------------------------------------------

typedef struct tally {
    const char *type;
    int64_t n, right, blind, grey;
    int64_t commonest; // questions whose truth is the commonest one of the type
} tally;

static tally *tally_of(tally **list, int64_t *count, const char *type)
{
    for (int64_t i = 0; i < *count; i++)
        if (!strcmp((*list)[i].type, type)) return &(*list)[i];
    tally *more = realloc(*list, (size_t)(*count + 1) * sizeof *more);
    if (!more) return NULL;
    *list = more;
    more[*count] = (tally){.type = type};
    return &more[(*count)++];
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const tally *)a)->type, ((const tally *)b)->type);
}

static double share(int64_t k, int64_t n)
{
    return n ? (double)k / (double)n : 0.0;
}

static json_t *tally_json(const tally *t, bool blind)
{
    json_t *o =
        json_pack("{s:I, s:I, s:f, s:o}", "count", (json_int_t)t->n, "right", (json_int_t)t->right,
                  "accuracy", share(t->right, t->n), "interval", suite_interval(t->right, t->n));
    if (o) json_object_set_new(o, "commonest", json_real(share(t->commonest, t->n)));
    if (o && blind) json_object_set_new(o, "blind", json_real(share(t->blind, t->n)));
    if (o && blind) json_object_set_new(o, "blind_grey", json_real(share(t->grey, t->n)));
    return o;
}

static pc_status tally_row(json_t *table, const tally *t, bool blind)
{
    char n[24], range[64];
    json_t *i = suite_interval(t->right, t->n);
    snprintf(n, sizeof n, "%lld", (long long)t->n);
    snprintf(range, sizeof range, "%.1f - %.1f", 100.0 * json_real_value(json_array_get(i, 0)),
             100.0 * json_real_value(json_array_get(i, 1)));
    json_decref(i);
    return suite_row(table, t->type, n, suite_percent(share(t->right, t->n)), range,
                     suite_percent(share(t->commonest, t->n)),
                     blind ? suite_percent(share(t->blind, t->n)) : NULL,
                     suite_percent(share(t->grey, t->n)), NULL);
}

// "type\nnormal form" of every truth, sorted: equal ones lie side by side.
static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char *type_of(const pc_question *x)
{
    return x->type ? x->type : "(no type)";
}

static pc_status truth_keys(char ***out, const asked *q)
{
    char **key = calloc((size_t)q->n, sizeof *key);
    pc_status st = key ? PC_OK : pc_fail(PC_ERR_MEMORY, "%lld truths", (long long)q->n);
    for (int64_t i = 0; i < q->n && !st; i++) {
        char *normal = pc_vqa_normalise(q->q[i]->answer);
        const size_t size = strlen(type_of(q->q[i])) + (normal ? strlen(normal) : 0) + 2;
        key[i] = normal ? malloc(size) : NULL;
        if (key[i])
            snprintf(key[i], size, "%s\n%s", type_of(q->q[i]), normal);
        else
            st = pc_fail(PC_ERR_MEMORY, "a truth");
        free(normal);
    }
    if (st) {
        free_texts(key, key ? q->n : 0);
        return st;
    }
    qsort(key, (size_t)q->n, sizeof *key, by_text);
    *out = key;
    return PC_OK;
}

// How often the commonest truth of a type occurs.
static int64_t commonest(const asked *q, char *const *key, const char *type)
{
    const size_t k = strlen(type);
    int64_t best = 0, run = 0;
    for (int64_t i = 0; i < q->n; i++) {
        if (strncmp(key[i], type, k) || key[i][k] != '\n') continue;
        run = run > 0 && !strcmp(key[i], key[i - 1]) ? run + 1 : 1;
        if (run > best) best = run;
    }
    return best;
}

static pc_status vqa_results(suite_output *out, const asked *q, bool *right)
{
    tally total = {.type = "all"}, *types = NULL;
    int64_t n_types = 0, empty = 0;
    pc_status st = PC_OK;
    json_t *by_type = json_object();
    char **keys = NULL;

    if ((st = truth_keys(&keys, q))) goto out;
    for (int64_t i = 0; i < q->n; i++) {
        const pc_question *x = q->q[i];
        tally *t = tally_of(&types, &n_types, type_of(x));
        if (!t) {
            st = pc_fail(PC_ERR_MEMORY, "question types");
            goto out;
        }
        right[i] = pc_vqa_exact(q->seen[i], x->answer);
        const bool blind = q->blind && pc_vqa_exact(q->blind[i], x->answer);
        const bool grey = q->grey && pc_vqa_exact(q->grey[i], x->answer);
        empty += !*q->seen[i];
        t->n++;
        t->right += right[i];
        t->blind += blind;
        t->grey += grey;
        total.n++;
        total.right += right[i];
        total.blind += blind;
        total.grey += grey;
    }
    qsort(types, (size_t)n_types, sizeof *types, by_name);
    for (int64_t i = 0; i < n_types; i++) {
        types[i].commonest = commonest(q, keys, types[i].type);
        total.commonest += types[i].commonest;
    }
    if ((st = suite_row(out->table, "question type", "questions", "right", "95 % interval",
                        "commonest answer", q->blind ? "without the image" : NULL, "grey image",
                        NULL)))
        goto out;
    for (int64_t i = 0; i < n_types; i++) {
        json_object_set_new(by_type, types[i].type, tally_json(&types[i], q->blind));
        if ((st = tally_row(out->table, &types[i], q->blind))) goto out;
    }
    if ((st = tally_row(out->table, &total, q->blind))) goto out;
    json_t *all = tally_json(&total, q->blind);
    if (!all || json_object_update(out->result, all) ||
        json_object_set_new(out->result, "unparsed", json_integer(empty)) ||
        json_object_set(out->result, "types", by_type))
        st = pc_fail(PC_ERR_MEMORY, "results");
    json_decref(all);
out:
    json_decref(by_type);
    free_texts(keys, keys ? q->n : 0);
    free(types);
    return st;
}

pc_status suite_vqa(suite_output *out, answerer *a, const suite_input *in)
{
    asked q = {0};
    bool *right = NULL;
    pc_status st;

    if ((st = suite_begin(out, "vqa", in)) || (st = asked_open(&q, a, in, "vqa"))) goto out;
    right = calloc((size_t)q.n, sizeof *right);
    if (!right) {
        st = pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)q.n);
        goto out;
    }
    if ((st = conditions(out, a, in, &q, PC_VQA_PARSER)) || (st = vqa_results(out, &q, right)))
        goto out;
    write_answers(in, "vqa", &q, right);
    st = add_cards(out, in, &q, right);
out:
    free(right);
    asked_close(&q);
    return st;
}

// ---- pope --------------------------------------------------------------------------------------

static json_t *pope_json(const pc_pope *p)
{
    const pc_pope_score s = pc_pope_result(p);
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I}", "accuracy", s.accuracy,
                     "precision", s.precision, "recall", s.recall, "f1", s.f1, "yes_ratio",
                     s.yes_ratio, "tp", (json_int_t)p->tp, "fp", (json_int_t)p->fp, "tn",
                     (json_int_t)p->tn, "fn", (json_int_t)p->fn, "evasive", (json_int_t)p->evasive);
}

static pc_status pope_row(json_t *table, const char *name, const pc_pope *p)
{
    const pc_pope_score s = pc_pope_result(p);
    char n[24], evasive[24];
    snprintf(n, sizeof n, "%lld", (long long)s.n);
    snprintf(evasive, sizeof evasive, "%lld", (long long)p->evasive);
    return suite_row(table, name, n, suite_percent(s.accuracy), suite_percent(s.precision),
                     suite_percent(s.recall), suite_percent(s.f1), suite_percent(s.yes_ratio),
                     evasive, NULL);
}

pc_status suite_pope(suite_output *out, answerer *a, const suite_input *in)
{
    asked q = {0};
    pc_pope seen = {0}, blind = {0}, grey = {0};
    bool *right = NULL;
    pc_status st;

    if ((st = suite_begin(out, "pope", in)) || (st = asked_open(&q, a, in, "pope"))) goto out;
    right = calloc((size_t)q.n, sizeof *right);
    if (!right) {
        st = pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)q.n);
        goto out;
    }
    for (int64_t i = 0; i < q.n; i++) {
        const char *truth = q.q[i]->answer;
        if (strcmp(truth, "yes") && strcmp(truth, "no")) {
            st = pc_fail(PC_ERR_INPUT, "%s:%lld: the answer is \"%.40s\"; pope takes yes and no",
                         in->data, (long long)q.q[i]->line, truth);
            goto out;
        }
        const bool yes = !strcmp(truth, "yes");
        pc_pope_add(&seen, q.seen[i], yes);
        right[i] = pc_pope_yes(q.seen[i]) == yes;
        if (q.blind) pc_pope_add(&blind, q.blind[i], yes);
        if (q.grey) pc_pope_add(&grey, q.grey[i], yes);
    }
    json_t *scores = pope_json(&seen);
    const bool failed = !scores || json_object_update(out->result, scores);
    json_decref(scores);
    if (failed || (q.blind && (json_object_set_new(out->result, "blind", pope_json(&blind)) ||
                               json_object_set_new(out->result, "blind_grey", pope_json(&grey))))) {
        st = pc_fail(PC_ERR_MEMORY, "results");
        goto out;
    }
    if ((st = conditions(out, a, in, &q, PC_POPE_PARSER)) ||
        (st = suite_row(out->table, "asked", "questions", "accuracy", "precision", "recall", "F1",
                        "says yes", "evasive", NULL)) ||
        (st = pope_row(out->table, "with the image", &seen)) ||
        (q.blind && (st = pope_row(out->table, "without the image", &blind))) ||
        (q.grey && (st = pope_row(out->table, "with a grey image", &grey))))
        goto out;
    write_answers(in, "pope", &q, right);
    st = add_cards(out, in, &q, right);
out:
    free(right);
    asked_close(&q);
    return st;
}
