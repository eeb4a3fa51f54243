/*
 * answer.c - see answer.h. Images into pixels: pixels.c.
 */
#include "infer/answer.h"

#include "data/images/visual.h"

#include "model/core/log.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_MARK "<image>"

// What goes through the model together: enough that products are large, not more than memory likes.
enum { ROUND_QUESTIONS = 512, ROUND_IMAGES = 64, ROUND_BYTES = 256 << 20 };

pc_status answerer_open(answerer *a, pc_bundle *b, int threads)
{
    memset(a, 0, sizeof *a);
    if (b->model.config.kind != PC_MODEL_VLM)
        return pc_fail(PC_ERR_INPUT,
                       "'%s' is a two-tower model: it does not answer; use `percept embed` "
                       "or `percept classify`",
                       b->path);
    if (!b->tokenizer || !b->template)
        return pc_fail(PC_ERR_INPUT,
                       "'%s' came without a %s that can be read: no text can be asked", b->path,
                       b->tokenizer ? "chat template" : "tokenizer");
    a->bundle = b;
    const int32_t stop = pc_template_stop(b->template, b->tokenizer);
    const int32_t eos = pc_tokenizer_eos(b->tokenizer);
    if (stop >= 0) a->stop[a->stops++] = stop;
    if (eos >= 0 && eos != stop) a->stop[a->stops++] = eos;
    pc_backend backend;
    pc_status st = pc_backend_choose(&backend, NULL);
    backend.real = pc_placement_precision(&b->model, &backend);
    if (!st) st = pc_runner_open_on(&a->runner, threads, NULL, &backend);
    return st ? st : pc_placement_open(&a->placement, &b->model, &a->runner.backend);
}

void answerer_close(answerer *a)
{
    pc_placement_close(&a->placement);
    pc_runner_close(&a->runner);
    memset(a, 0, sizeof *a);
}

static pc_generate_options generate_options(const answerer *a, const answer_options *o)
{
    const int64_t V = a->bundle->model.config.vlm.decoder.V;
    const int64_t known = pc_tokenizer_vocab(a->bundle->tokenizer);
    return (pc_generate_options){
        .max_tokens = o->max_tokens,
        .sampling = o->sampling,
        .stop = a->stop,
        .stops = a->stops,
        .vocabulary = known > 0 && known < V ? known : 0,
    };
}

static pc_status to_text(char **out, const answerer *a, const pc_generation *g)
{
    const pc_status st = pc_tokenizer_decode(a->bundle->tokenizer, out, g->ids, g->length, true);
    if (st) return st;
    char *s = *out;
    size_t n = strlen(s), skip = 0;
    while (n > 0 && isspace((unsigned char)s[n - 1])) n--;
    while (skip < n && isspace((unsigned char)s[skip])) skip++;
    memmove(s, s + skip, n - skip);
    s[n - skip] = '\0';
    return PC_OK;
}

// ---- many questions ----------------------------------------------------------------------------

// A question laid out: its ids, and where what it shares with its neighbours ends.
typedef struct prompt {
    int64_t item; // index into items
    const char *image;
    pc_image_geometry geometry; // of the image
    pc_rendered text;
} prompt;

// Questions from `first` on that go through together.
typedef struct round_ {
    pc_sequence *seq; // (sequences)
    int64_t sequences, branches, images;
    const char **image;          // (images)
    pc_image_geometry *geometry; // (images)
    int32_t *ids;                // all sequences' ids, one after the other
    int64_t *ends;               // all branch ends
} round_;

static pc_status lay_out(prompt *p, const answerer *a, const answer_item *item, int64_t index,
                         const answer_options *o)
{
    const bool see = item->image && o->view != ANSWER_ABSENT;
    const char *suffix = o->suffix ? o->suffix : "";
    const size_t size = strlen(item->question) + strlen(suffix) + sizeof IMAGE_MARK + 2;
    char *text = malloc(size);

    p->item = index;
    p->image = !see ? NULL : o->view == ANSWER_GREY ? "" : item->image;
    if (!text) return pc_fail(PC_ERR_MEMORY, "a question of %zu bytes", size);
    // White space at the ends of a question goes, as it does in training.
    const int n = snprintf(text, size, "%s%s%s", see ? IMAGE_MARK "\n" : "",
                           item->question + strspn(item->question, " \t\r\n\v\f"), suffix);
    for (int i = n; i > 0 && isspace((unsigned char)text[i - 1]); i--) text[i - 1] = '\0';
    const pc_message m = {PC_ROLE_USER, text};
    const pc_status st = pc_template_render(a->bundle->template, &p->text, a->bundle->tokenizer, &m,
                                            1, true, (int32_t)a->bundle->model.config.vlm.image_id);
    free(text);
    return st;
}

// What each image becomes; questions about one stand next to each other.
static pc_status measure(prompt *list, int64_t n, const answerer *a)
{
    const pc_vlm_config *c = &a->bundle->model.config.vlm;
    for (int64_t i = 0; i < n; i++) {
        prompt *p = &list[i];
        pc_visual v;
        if (!p->image) continue;
        if (i && list[i - 1].image && !strcmp(list[i - 1].image, p->image)) {
            p->geometry = list[i - 1].geometry;
            continue;
        }
        const pc_status st = pc_visual_measure(&v, &a->bundle->image, c, &p->image, 1, 1);
        if (st) return st;
        p->geometry = v.geometry[0];
        pc_visual_close(&v);
    }
    return PC_OK;
}

static int by_image(const void *x, const void *y)
{
    const prompt *a = x, *b = y;
    const int order = a->image && b->image ? strcmp(a->image, b->image) : !!a->image - !!b->image;
    return order ? order : (a->item > b->item) - (a->item < b->item);
}

// Whether b can be a branch behind the same prefix as a.
static bool shares(const prompt *a, const prompt *b)
{
    const int64_t n = a->text.first_turn;
    if ((a->image == NULL) != (b->image == NULL) || b->text.first_turn != n) return false;
    if (a->image && strcmp(a->image, b->image)) return false;
    if (a->text.ids.count <= n || b->text.ids.count <= n) return false; // nothing behind the prefix
    return memcmp(a->text.ids.list, b->text.ids.list, (size_t)n * sizeof(int32_t)) == 0;
}

static void round_close(round_ *r)
{
    free(r->seq);
    free(r->image);
    free(r->geometry);
    free(r->ids);
    free(r->ends);
    memset(r, 0, sizeof *r);
}

// Takes prompts from `first` on while they fit; *count of them go into the round.
static pc_status round_open(round_ *r, int64_t *count, const answerer *a, const prompt *list,
                            int64_t first, int64_t n, const answer_options *o)
{
    const pc_vlm_config *c = &a->bundle->model.config.vlm;
    const int64_t cell = 2 * c->decoder.L * c->decoder.G * c->decoder.D * (int64_t)sizeof(float);
    const int64_t rows_max = ROUND_BYTES / (cell > 0 ? cell : 1);
    int64_t ids = 0, rows = 0, k = first;

    memset(r, 0, sizeof *r);
    for (; k < n && k - first < ROUND_QUESTIONS; k++) {
        const pc_ids *x = &list[k].text.ids;
        const bool joins = k > first && shares(&list[k - 1], &list[k]);
        const int64_t begin = joins ? list[k].text.first_turn : 0;
        const int64_t more =
            pc_vlm_rows(c, x->list + begin, x->count - begin, &list[k].geometry) + o->max_tokens;
        const int64_t images = joins ? 0 : list[k].text.images;
        if (k > first && (rows + more > rows_max || r->images + images > ROUND_IMAGES)) break;
        rows += more;
        ids += x->count - begin;
        r->images += images;
        r->sequences += !joins;
    }
    *count = k - first;
    r->seq = calloc((size_t)r->sequences, sizeof *r->seq);
    r->image = calloc((size_t)r->images + 1, sizeof *r->image);
    r->geometry = calloc((size_t)r->images + 1, sizeof *r->geometry);
    r->ids = malloc((size_t)(ids + 1) * sizeof *r->ids);
    r->ends = malloc((size_t)*count * sizeof *r->ends);
    if (!r->seq || !r->image || !r->geometry || !r->ids || !r->ends) {
        round_close(r);
        return pc_fail(PC_ERR_MEMORY, "a round of %lld questions", (long long)*count);
    }

    int32_t *to = r->ids;
    pc_sequence *s = NULL;
    r->sequences = r->images = 0;
    for (k = first; k < first + *count; k++) {
        const pc_rendered *x = &list[k].text;
        const bool joins = k > first && shares(&list[k - 1], &list[k]);
        const int64_t begin = joins ? x->first_turn : 0;
        if (!joins) {
            s = &r->seq[r->sequences++];
            *s = (pc_sequence){.ids = to,
                               .branch_end = r->ends + r->branches,
                               .images = r->geometry + r->images};
            if (x->images) {
                r->geometry[r->images] = list[k].geometry;
                r->image[r->images++] = list[k].image;
            }
            // Without words behind the prefix the prompt is one piece.
            if (x->ids.count > x->first_turn) s->prefix = x->first_turn;
        }
        memcpy(to, x->ids.list + begin, (size_t)(x->ids.count - begin) * sizeof *to);
        to += x->ids.count - begin;
        s->length += x->ids.count - begin;
        if (x->ids.count > x->first_turn) {
            s->branches++;
            r->ends[r->branches] = s->length;
        }
        r->branches++;
    }
    return PC_OK;
}

static pc_status open_images(pc_visual *v, answerer *a, const char *const *paths, int64_t n,
                             int64_t together)
{
    const pc_image_config *ic = &a->bundle->image;
    pc_status st = pc_visual_measure(v, ic, &a->bundle->model.config.vlm, paths, n, together);
    if (!st) st = pc_visual_load(v, ic, paths, a->runner.pool);
    return st;
}

static pc_status ask_round(answerer *a, char **text, const prompt *list, const round_ *r,
                           int64_t count, const answer_options *o)
{
    const pc_generate_options g = generate_options(a, o);
    const pc_vlm *l = &a->bundle->model.vlm;
    pc_generation *out = calloc((size_t)count, sizeof *out);
    pc_visual v = {0};
    pc_status st = PC_OK;

    if (!out) return pc_fail(PC_ERR_MEMORY, "%lld answers", (long long)count);
    if (r->images && (st = open_images(&v, a, r->image, r->images, 1))) goto done;
    if ((st = pc_generate(out, &a->runner, l, r->seq, r->sequences, &v.pictures, &g))) goto done;
    for (int64_t i = 0; i < count && !st; i++) st = to_text(&text[list[i].item], a, &out[i]);
    pc_generation_close(out, count);
done:
    free(out);
    pc_visual_close(&v);
    return st;
}

static pc_status check_eyes(const answerer *a, bool see)
{
    if (!see) return PC_OK;
    if (!a->bundle->model.config.vlm.vision.L)
        return pc_fail(PC_ERR_INPUT, "'%s' has no vision tower: it cannot be asked about images",
                       a->bundle->path);
    if (!a->bundle->has_image)
        return pc_fail(PC_ERR_INPUT, "'%s' does not say how images are prepared", a->bundle->path);
    return PC_OK;
}

pc_status answer_all(answerer *a, char **text, const answer_item *items, int64_t n,
                     const answer_options *o)
{
    prompt *list = calloc((size_t)n + 1, sizeof *list);
    pc_progress bar = {.closed = true};
    pc_status st = PC_OK;

    memset(text, 0, (size_t)n * sizeof *text);
    if (!list) return pc_fail(PC_ERR_MEMORY, "%lld questions", (long long)n);
    for (int64_t i = 0; i < n && !st; i++)
        if (!(st = check_eyes(a, items[i].image && o->view != ANSWER_ABSENT)) &&
            (st = lay_out(&list[i], a, &items[i], i, o)))
            st = pc_context(st, "question \"%.60s\"", items[i].question);
    if (st) goto done;
    qsort(list, (size_t)n, sizeof *list, by_image);
    if ((st = measure(list, n, a))) goto done;
    if (o->label) pc_progress_open(&bar, o->label, "questions", n);
    for (int64_t first = 0, count; first < n; first += count) {
        round_ r;
        if ((st = round_open(&r, &count, a, list, first, n, o))) break;
        st = ask_round(a, text, list + first, &r, count, o);
        round_close(&r);
        if (st) break;
        if (o->label) pc_progress_update(&bar, first + count, NULL);
    }
    if (o->label) pc_progress_close(&bar);
done:
    for (int64_t i = 0; i < n; i++) pc_rendered_close(&list[i].text);
    free(list);
    for (int64_t i = 0; st && i < n; i++) {
        free(text[i]);
        text[i] = NULL;
    }
    return st;
}

// ---- one conversation --------------------------------------------------------------------------

typedef struct teller {
    answer_stream *stream;
    pc_stream_decoder decoder;
    bool begun; // leading white space is over
    double start;
} teller;

static void tell(teller *t, const char *text)
{
    while (!t->begun && isspace((unsigned char)*text)) text++;
    if (!*text) return;
    t->begun = true;
    t->stream->say(t->stream->arg, text);
}

static bool on_token(void *arg, int64_t sequence, int32_t id)
{
    teller *t = arg;
    char buf[1024];

    (void)sequence;
    if (t->stream->tokens++ == 0) t->stream->first = pc_seconds() - t->start;
    if (t->stream->say && !pc_stream_decode(&t->decoder, id, buf, sizeof buf)) tell(t, buf);
    return true;
}

pc_status answer_one(answerer *a, char **text, const pc_message *messages, int n_messages,
                     const char *const *images, int n_images, const answer_options *o,
                     answer_stream *stream)
{
    const pc_bundle *b = a->bundle;
    answer_stream own = {0};
    teller t = {.stream = stream ? stream : &own,
                .decoder = {.tokenizer = b->tokenizer},
                .start = pc_seconds()};
    pc_rendered r = {0};
    pc_generation g = {0};
    pc_visual v = {0};
    pc_status st;

    *text = NULL;
    if ((st = check_eyes(a, n_images > 0)) ||
        (st =
             pc_template_render(b->template, &r, b->tokenizer, messages, n_messages, true,
                                b->model.config.vlm.vision.L ? (int32_t)b->model.config.vlm.image_id
                                                             : -1)))
        return st;
    if (n_images && (st = open_images(&v, a, images, n_images, n_images))) goto done;
    pc_generate_options options = generate_options(a, o);
    options.token = on_token;
    options.arg = &t;
    const int64_t places = pc_vlm_places(&b->model.config.vlm, r.ids.list, r.ids.count);
    if (places != n_images) {
        st = pc_fail(PC_ERR_INPUT, "%lld image places in the text, %d images", (long long)places,
                     n_images);
        goto done;
    }
    const pc_sequence seq = {.ids = r.ids.list,
                             .length = r.ids.count,
                             .images = n_images ? v.geometry : NULL};
    if ((st = pc_generate(&g, &a->runner, &b->model.vlm, &seq, 1, &v.pictures, &options)))
        goto done;
    if (t.stream->say) {
        char buf[16];
        pc_stream_flush(&t.decoder, buf, sizeof buf);
        tell(&t, buf);
    }
    t.stream->stopped = g.stopped;
    st = to_text(text, a, &g);
done:
    pc_generation_close(&g, 1);
    pc_rendered_close(&r);
    pc_visual_close(&v);
    return st;
}
