/*
 * check_file.c - reads every row and image of one file and notes what it finds; see check.h.
 */
#include "data/commands/check.h"
#include "data/images/image.h"
#include "data/text/bytemap.h"
#include "data/text/utf8.h"
#include "model/core/file.h"
#include "model/core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXAMPLES = 5 };

/* A row of either kind of file, as far as checking goes. */
typedef struct check_row {
    char place[1024];
    const char *image;
    const pc_sample *sample; // NULL: a question
    const pc_question *question;
} check_row;

typedef struct checking {
    const check_options *o;
    const char *path;
    pc_dataset data;
    pc_questions questions;
    bool flat; // questions
    int64_t unusable;
    json_t *report, *problems;
    bool failed; // a part of the report could not be kept
} checking;

static int64_t row_count(const checking *c)
{
    return c->flat ? c->questions.count : c->data.count;
}

static check_row row_at(const checking *c, int64_t i)
{
    check_row r = {.image = NULL};
    if (c->flat) {
        r.question = &c->questions.list[i];
        r.image = r.question->image;
        snprintf(r.place, sizeof r.place, "%.900s:%lld", c->path, (long long)r.question->line);
    } else {
        r.sample = &c->data.samples[i];
        r.image = r.sample->image;
        pc_sample_place(r.sample, r.place, sizeof r.place);
    }
    return r;
}

static void put(checking *c, const char *key, json_t *value)
{
    if (json_object_set_new(c->report, key, value)) c->failed = true;
}

/* A message into a list; one with bytes of a broken file in it is repaired first. */
static void say(checking *c, json_t *list, const char *text)
{
    size_t size;
    char *valid = pc_utf8_repaired(text, strlen(text), &size);
    if (!valid || json_array_append_new(list, json_string(valid))) c->failed = true;
    free(valid);
}

static void problem(checking *c, const char *text)
{
    say(c, c->problems, text);
    c->unusable++;
}

/* ---- reading ---- */

static pc_status is_flat(bool *flat, const char *path)
{
    pc_row_reader rows;
    pc_status st = pc_row_reader_open(&rows, path);
    *flat = false;
    if (st) return st;
    json_t *row = NULL;
    do { // the first row that can be read
        json_decref(row);
        st = pc_row_reader_next(&rows, &row);
    } while (st == PC_ERR_INPUT && !row);
    *flat = json_object_get(row, "question_id") != NULL;
    json_decref(row);
    pc_row_reader_close(&rows);
    return PC_OK;
}

/* A file that cannot be used at all is a finding; only want of memory is a failure. */
static pc_status read_rows(checking *c)
{
    const pc_source source = {c->path, c->o->images, 1.0};
    pc_status st = is_flat(&c->flat, c->path);
    if (!st && c->flat) st = pc_questions_read(&c->questions, c->path, c->o->images, PC_BAD_SKIP);
    if (!st && !c->flat) st = pc_dataset_open(&c->data, &source, 1, PC_BAD_SKIP);
    if (st == PC_ERR_MEMORY) return st;
    if (st) problem(c, pc_error_text());
    char **skipped = c->flat ? c->questions.skipped : c->data.skipped;
    const int64_t n = c->flat ? c->questions.n_skipped : c->data.n_skipped;
    for (int64_t i = 0; i < n; i++) problem(c, skipped[i]);
    return PC_OK;
}

static void report_rows(checking *c)
{
    int64_t captions = 0, turns = 0;
    for (int64_t i = 0; i < c->data.count; i++) {
        captions += c->data.samples[i].n_captions;
        turns += c->data.samples[i].n_turns;
    }
    const char *kind = c->flat             ? "questions"
                       : captions && turns ? "mixed"
                       : captions          ? "captions"
                                           : "conversations";
    put(c, "kind", json_string(row_count(c) ? kind : "nothing usable"));
    put(c, "rows", json_integer(row_count(c)));
    put(c, "texts", json_integer(c->flat ? c->questions.count : captions + turns));
}

/* ---- images ---- */

typedef struct image_result {
    const char *path;
    int64_t first_row, rows; // the row that shows it first, and how many do
    int64_t width, height;
    char *error;
    char sha[65];
} image_result;

typedef struct image_job {
    image_result *list;
    int64_t first;
} image_job;

static void read_images(void *arg, int64_t begin, int64_t end, int worker)
{
    const image_job *job = arg;
    (void)worker;
    for (int64_t i = job->first + begin; i < job->first + end; i++) {
        image_result *r = &job->list[i];
        pc_image im;
        pc_status st = pc_image_open(&im, r->path, true);
        if (!st) {
            r->width = im.width;
            r->height = im.height;
            pc_image_close(&im);
            st = pc_file_sha256(r->sha, r->path);
        }
        if (st) r->error = strdup(pc_error_text());
    }
}

/* The different images of all rows, in the order in which they come. */
static pc_status list_images(image_result **out, int64_t *n, const checking *c)
{
    pc_bytemap paths = {0};
    image_result *list = calloc((size_t)row_count(c) + 1, sizeof *list);
    pc_status st = list ? PC_OK : pc_fail(PC_ERR_MEMORY, "%lld images", (long long)row_count(c));
    for (int64_t i = 0; i < row_count(c) && !st; i++) {
        const char *path = c->flat ? c->questions.list[i].image : c->data.samples[i].image;
        if (!path) continue;
        bool made;
        const pc_byte_entry *e = pc_bytemap_add(&paths, path, strlen(path), paths.count, &made);
        if (!e) {
            st = pc_fail(PC_ERR_MEMORY, "%lld images", (long long)paths.count);
            break;
        }
        if (made) list[e->value] = (image_result){.path = path, .first_row = i};
        list[e->value].rows++;
    }
    *n = paths.count;
    pc_bytemap_close(&paths);
    *out = list;
    return st;
}

static void report_images(checking *c, const image_result *list, int64_t n, json_t *examples,
                          int64_t *same)
{
    pc_bytemap seen = {0};
    int64_t bad = 0;
    const image_result *small = NULL, *large = NULL;
    for (int64_t i = 0; i < n; i++) {
        const image_result *r = &list[i];
        if (r->error) {
            char text[3072];
            const check_row row = row_at(c, r->first_row);
            snprintf(text, sizeof text, "%s: %s", row.place, r->error);
            problem(c, text);
            c->unusable += r->rows - 1; // its other rows
            bad++;
            continue;
        }
        if (!c->o->decode) continue;
        const int64_t area = r->width * r->height;
        if (!small || area < small->width * small->height) small = r;
        if (!large || area > large->width * large->height) large = r;
        bool made = true;
        const pc_byte_entry *e = pc_bytemap_add(&seen, r->sha, 64, i, &made);
        if (!e || made) continue;
        if ((*same)++ < EXAMPLES) {
            char text[3072];
            snprintf(text, sizeof text, "'%.1000s' is the same file as '%.1000s'", r->path,
                     list[e->value].path);
            say(c, examples, text);
        }
    }
    pc_bytemap_close(&seen);
    json_t *images = json_pack("{s:I, s:I}", "count", (json_int_t)n, "unreadable", (json_int_t)bad);
    if (small && large &&
        (json_object_set_new(images, "smallest",
                             json_pack("[I, I]", (json_int_t)small->width,
                                       (json_int_t)small->height)) ||
         json_object_set_new(images, "largest",
                             json_pack("[I, I]", (json_int_t)large->width,
                                       (json_int_t)large->height))))
        c->failed = true;
    put(c, "images", images);
}

static pc_status check_images(checking *c, json_t *examples, int64_t *same)
{
    image_result *list;
    int64_t n = 0;
    pc_status st = list_images(&list, &n, c);
    if (!st && c->o->decode && n) {
        pc_progress p;
        pc_progress_open(&p, "check", "images", n);
        for (int64_t first = 0; first < n; first += 256) {
            image_job job = {list, first};
            pc_parallel(c->o->pool, n - first < 256 ? n - first : 256, 1, read_images, &job);
            pc_progress_update(&p, first, NULL);
        }
        pc_progress_update(&p, n, NULL);
        if (n > 2000) pc_progress_close(&p); // small sets need no last word
    }
    if (!st) report_images(c, list, n, examples, same);
    for (int64_t i = 0; list && i < n; i++) free(list[i].error);
    free(list);
    return st;
}

/* ---- duplicates ---- */

/* Everything a row says, in one malloc'ed text. */
static char *words_of(const check_row *r, size_t *size)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, size);
    if (!f) return NULL;
    fprintf(f, "%s\n", r->image ? r->image : "");
    if (r->question) fprintf(f, "%s\n%s", r->question->question, r->question->answer);
    for (int64_t i = 0; r->sample && i < r->sample->n_captions; i++)
        fprintf(f, "%s\n", r->sample->captions[i]);
    for (int64_t i = 0; r->sample && i < r->sample->n_turns; i++)
        fprintf(f, "%s\n%s\n", r->sample->turns[i].question, r->sample->turns[i].answer);
    if (fclose(f) == 0) return text;
    free(text);
    return NULL;
}

static pc_status same_rows(checking *c, json_t *examples, int64_t *same)
{
    pc_bytemap seen = {0};
    pc_status st = PC_OK;
    for (int64_t i = 0; i < row_count(c) && !st; i++) {
        const check_row row = row_at(c, i);
        size_t size = 0;
        bool made = true;
        char *words = words_of(&row, &size);
        const pc_byte_entry *e = words ? pc_bytemap_add(&seen, words, size, i, &made) : NULL;
        free(words);
        if (!e) st = pc_fail(PC_ERR_MEMORY, "comparing rows");
        if (!e || made) continue;
        if ((*same)++ < EXAMPLES) {
            char text[3072];
            const check_row first = row_at(c, e->value);
            snprintf(text, sizeof text, "%s says what %s says", row.place, first.place);
            say(c, examples, text);
        }
    }
    pc_bytemap_close(&seen);
    return st;
}

/* Captions that belong to several images: each is a wrong negative in contrastive training. */
static pc_status same_captions(checking *c, json_t *examples, int64_t *same)
{
    pc_bytemap seen = {0};
    pc_status st = PC_OK;
    for (int64_t i = 0; i < c->data.count && !st; i++) {
        const pc_sample *s = &c->data.samples[i];
        for (int64_t k = 0; k < s->n_captions && !st; k++) {
            bool made;
            const pc_byte_entry *e =
                pc_bytemap_add(&seen, s->captions[k], strlen(s->captions[k]), i, &made);
            if (!e) st = pc_fail(PC_ERR_MEMORY, "comparing captions");
            if (!e || made || strcmp(c->data.samples[e->value].image, s->image) == 0) continue;
            if ((*same)++ < EXAMPLES) {
                char text[3072];
                const check_row here = row_at(c, i), first = row_at(c, e->value);
                snprintf(text, sizeof text, "\"%.200s\" is a caption of %s and of %s",
                         s->captions[k], first.place, here.place);
                say(c, examples, text);
            }
        }
    }
    pc_bytemap_close(&seen);
    return st;
}

/* ---- tokens ---- */

typedef struct lengths {
    int64_t total, learned, longest, cut;
    char longest_at[1024];
} lengths;

static void note_length(lengths *l, int64_t n, const char *place)
{
    l->total += n;
    if (n <= l->longest) return;
    l->longest = n;
    snprintf(l->longest_at, sizeof l->longest_at, "%s", place);
}

static pc_status render_sample(pc_rendered *r, const checking *c, const pc_sample *s)
{
    const int n = (int)(2 * s->n_turns) + (s->system != NULL);
    pc_message *m = malloc((size_t)n * sizeof *m);
    if (!m) return pc_fail(PC_ERR_MEMORY, "%d messages", n);
    int k = 0;
    if (s->system) m[k++] = (pc_message){PC_ROLE_SYSTEM, s->system};
    for (int64_t i = 0; i < s->n_turns; i++) {
        m[k++] = (pc_message){PC_ROLE_USER, s->turns[i].question};
        m[k++] = (pc_message){PC_ROLE_ASSISTANT, s->turns[i].answer};
    }
    pc_status st = pc_template_render(c->o->tmpl, r, c->o->tok, m, n, false,
                                      pc_tokenizer_id(c->o->tok, "<image>"));
    free(m);
    return st;
}

static pc_status count_conversation(checking *c, lengths *l, const check_row *row)
{
    pc_rendered r;
    const int64_t limit = c->o->max_tokens;
    pc_status st = render_sample(&r, c, row->sample);
    if (st) return pc_context(st, "%s", row->place);
    const int64_t more = r.images * (c->o->image_rows - 1);
    note_length(l, r.ids.count + more, row->place);
    for (int64_t i = 0; i < r.ids.count; i++) l->learned += r.supervised[i];
    if (limit && r.turn_end[0] + more > limit) {
        char text[2048];
        snprintf(text, sizeof text, "%s: the first turn takes %lld rows, %lld can be had",
                 row->place, (long long)(r.turn_end[0] + more), (long long)limit);
        problem(c, text);
    } else if (limit && r.ids.count + more > limit) {
        l->cut++;
    }
    pc_rendered_close(&r);
    return PC_OK;
}

static pc_status count_text(const checking *c, lengths *l, const char *text, const char *place)
{
    pc_ids ids = {0};
    pc_status st = pc_tokenizer_encode(c->o->tok, &ids, text, strlen(text), false);
    if (!st) note_length(l, ids.count, place);
    pc_ids_close(&ids);
    return st;
}

static pc_status check_tokens(checking *c)
{
    lengths l = {0};
    pc_status st = PC_OK;
    for (int64_t i = 0; i < row_count(c) && !st; i++) {
        const check_row row = row_at(c, i);
        if (row.question) st = count_text(c, &l, row.question->question, row.place);
        if (row.sample && row.sample->n_turns) st = count_conversation(c, &l, &row);
        for (int64_t k = 0; row.sample && k < row.sample->n_captions && !st; k++)
            st = count_text(c, &l, row.sample->captions[k], row.place);
    }
    if (st) return st;
    put(c, "tokens",
        json_pack("{s:I, s:I, s:I, s:s, s:I}", "total", (json_int_t)l.total, "learned",
                  (json_int_t)l.learned, "longest", (json_int_t)l.longest, "longest_at",
                  l.longest_at, "cut", (json_int_t)l.cut));
    return PC_OK;
}

/* ---- the whole ---- */

static pc_status check_duplicates(checking *c)
{
    json_t *examples = json_array();
    int64_t rows = 0, captions = 0, images = 0;
    pc_status st = check_images(c, examples, &images);
    if (!st) st = same_rows(c, examples, &rows);
    if (!st) st = same_captions(c, examples, &captions);
    put(c, "duplicates",
        json_pack("{s:I, s:I, s:I, s:o}", "rows", (json_int_t)rows, "captions",
                  (json_int_t)captions, "images", (json_int_t)images, "examples", examples));
    return st;
}

pc_status check_file(json_t **report, const char *path, const check_options *o)
{
    checking c = {.o = o, .path = path, .report = json_object(), .problems = json_array()};
    put(&c, "path", json_string(path));
    pc_status st = read_rows(&c);
    if (!st) report_rows(&c);
    if (!st) st = check_duplicates(&c);
    if (!st && o->tok) st = check_tokens(&c);
    put(&c, "unusable", json_integer(c.unusable));
    put(&c, "problems", c.problems);
    if (!st && c.failed) st = pc_fail(PC_ERR_MEMORY, "the report on '%s'", path);
    pc_dataset_close(&c.data);
    pc_questions_close(&c.questions);
    if (st) json_decref(c.report);
    *report = st ? NULL : c.report;
    return st;
}
