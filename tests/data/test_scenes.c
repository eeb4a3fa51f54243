/*
 * test_scenes.c - the generated scenes: the same bytes again, splits apart, answers right and even.
 *
 * Answers are derived a second time, from the question's words and the objects alone, by a reader that
 * shares no code with the writer.
 */
#include "data/scenes/language.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <ctype.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { IMAGES = 240, SIZE = 32, SEED = 11 };

static const char *drawn; // the folder with IMAGES training images that most tests read

static scenes_options small_options(int threads)
{
    scenes_options o = scenes_default_options();
    o.images = IMAGES;
    o.size = SIZE;
    o.seed = SEED;
    o.threads = threads;
    return o;
}

static const char *in(const char *folder, const char *file)
{
    static char path[8][512];
    static int turn;
    char *out = path[turn++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", folder, file);
    return out;
}

static char *text_of(const char *file)
{
    char *text = NULL;
    size_t size;
    assert_int_equal(pc_file_read(&text, &size, in(drawn, file), (size_t)1 << 28), PC_OK);
    return text;
}

// ---- a reader of questions -----------------------------------------------------------------------

typedef struct phrase {
    int size, colour, shape; // -1: not said
} phrase;

typedef struct reading {
    char word[32][16];
    int words;
    phrase name[2];
    int names;
} reading;

static int index_in(const char *const *names, int n, const char *word)
{
    for (int i = 0; i < n; i++) {
        const size_t length = strlen(names[i]);
        const char *rest = word + length;
        if (strncmp(word, names[i], length)) continue;
        if (!*rest || !strcmp(rest, "s") || !strcmp(rest, "es")) return i;
    }
    return -1;
}

static bool has(const reading *r, const char *word)
{
    for (int i = 0; i < r->words; i++)
        if (!strcmp(r->word[i], word)) return true;
    return false;
}

/* Splits the question into words and collects the phrases that end in a shape or in "object". */
static reading read_question(const char *text)
{
    reading r = {.words = 0};
    for (const char *p = text; *p;) {
        while (*p && !isalnum((unsigned char)*p)) p++;
        int n = 0;
        while (isalnum((unsigned char)*p) && n < 15)
            r.word[r.words][n++] = (char)tolower((unsigned char)*p++);
        r.word[r.words][n] = '\0';
        if (n > 0 && r.words < 31) r.words++;
    }
    phrase said = {-1, -1, -1};
    const char *const object[] = {"object"};
    for (int i = 0; i < r.words; i++) {
        const char *w = r.word[i];
        const int size = index_in(scene_size_names, SCENE_SIZES, w);
        const int colour = index_in(scene_colour_names, SCENE_COLOURS, w);
        const int shape = index_in(scene_shape_names, SCENE_SHAPES, w);
        if (size >= 0)
            said.size = size;
        else if (colour >= 0)
            said.colour = colour;
        else if (shape >= 0 || index_in(object, 1, w) == 0) {
            said.shape = shape;
            assert_true(r.names < 2);
            r.name[r.names++] = said;
            said = (phrase){-1, -1, -1};
        }
    }
    return r;
}

static int matching(const pc_scene *s, phrase p, const scene_object **one)
{
    int n = 0;
    for (int i = 0; i < s->count; i++) {
        const scene_object *o = &s->object[i];
        if ((p.size >= 0 && o->size != p.size) || (p.colour >= 0 && o->colour != p.colour) ||
            (p.shape >= 0 && o->shape != p.shape))
            continue;
        if (one) *one = o;
        n++;
    }
    return n;
}

static const scene_object *the(const pc_scene *s, phrase p)
{
    const scene_object *o = NULL;
    assert_int_equal(matching(s, p, &o), 1); // "the circle" must be one
    return o;
}

static const char *yes_no(bool yes)
{
    return yes ? "yes" : "no";
}

/* The answer that the picture's objects give, and the type that the words show. */
static const char *derive(const pc_scene *s, const char *question, scene_type *type)
{
    static char number[16];
    const reading r = read_question(question);
    assert_true(r.names >= 1);
    if (has(&r, "many") || has(&r, "number")) {
        *type = SCENE_COUNT;
        snprintf(number, sizeof number, "%d", matching(s, r.name[0], NULL));
        return number;
    }
    if (has(&r, "more")) {
        *type = SCENE_COMPARISON;
        return yes_no(matching(s, r.name[0], NULL) > matching(s, r.name[1], NULL));
    }
    if (r.names == 2) {
        const scene_object *a = the(s, r.name[0]), *b = the(s, r.name[1]);
        *type = SCENE_COMPARISON;
        if (has(&r, "larger")) return yes_no(a->radius > b->radius && a->size != b->size);
        if (has(&r, "smaller")) return yes_no(a->radius < b->radius && a->size != b->size);
        if (has(&r, "same")) {
            if (has(&r, "colour")) return yes_no(a->colour == b->colour);
            if (has(&r, "shape")) return yes_no(a->shape == b->shape);
            assert_true(has(&r, "size"));
            return yes_no(a->size == b->size);
        }
        *type = SCENE_RELATION;
        const bool across = has(&r, "left") || has(&r, "right");
        const double d = across ? a->x - b->x : a->y - b->y;
        assert_true(fabs(d) >= 0.125); // near ties are not asked
        if (has(&r, "or")) return across ? d < 0 ? "left" : "right" : d < 0 ? "above" : "below";
        if (has(&r, "left") || has(&r, "above")) return yes_no(d < 0);
        return yes_no(d > 0);
    }
    if (has(&r, "colour")) {
        *type = SCENE_COLOUR;
        return scene_colour_names[the(s, r.name[0])->colour];
    }
    if (has(&r, "shape")) {
        *type = SCENE_SHAPE;
        return scene_shape_names[the(s, r.name[0])->shape];
    }
    *type = SCENE_EXISTENCE;
    return yes_no(matching(s, r.name[0], NULL) > 0);
}

// ---- what is asked -------------------------------------------------------------------------------

static void answers_follow_from_the_objects(void **state)
{
    (void)state;
    int asked = 0;
    for (int split = 0; split < SCENE_SPLITS; split++) {
        for (int64_t i = 0; i < 1500; i++) {
            pc_scene s;
            scene_question q[12];
            scene_layout(&s, SEED, (scene_split)split, i);
            const int n = scene_questions(q, 12, &s);
            assert_int_equal(n, 12);
            for (int k = 0; k < n; k++) {
                scene_type type;
                const char *truth = derive(&s, q[k].text, &type);
                if (strcmp(truth, q[k].answer) || type != q[k].type)
                    fail_msg("%s %d: \"%s\": wrote \"%s\", the objects say \"%s\"",
                             scene_split_names[split], (int)i, q[k].text, q[k].answer, truth);
                for (int other = 0; other < k; other++)
                    assert_string_not_equal(q[k].text, q[other].text);
                asked++;
            }
        }
    }
    assert_int_equal(asked, 4 * 1500 * 12);
}

static void dense_turns_follow_from_the_objects(void **state)
{
    (void)state;
    int seen[SCENE_TURN_TYPES] = {0};
    for (int64_t i = 0; i < 2000; i++) {
        pc_scene s;
        scene_turn turn[SCENE_TURNS];
        scene_layout(&s, SEED, SCENE_TRAIN, i);
        const int n = scene_turns(turn, &s);
        assert_true(n >= 1 && n <= SCENE_TURNS);
        for (int k = 0; k < n; k++) {
            char square[3];
            const reading r = read_question(turn[k].request);
            seen[turn[k].type]++;
            if (turn[k].type == SCENE_PLACE) {
                scene_square(square, the(&s, r.name[0]));
                assert_string_equal(turn[k].reply, square);
            } else if (turn[k].type == SCENE_CONTENT) {
                const reading answer = read_question(turn[k].reply);
                bool found = false; // "what is at c5": that object lies there, and no other does
                for (int o = 0; o < s.count; o++) {
                    scene_square(square, &s.object[o]);
                    if (strcmp(r.word[3], square)) continue;
                    assert_false(found);
                    found = answer.name[0].size == s.object[o].size &&
                            answer.name[0].colour == s.object[o].colour &&
                            answer.name[0].shape == s.object[o].shape;
                    assert_true(found);
                }
                assert_true(found);
            } else if (turn[k].type == SCENE_SIDE) {
                const scene_object *a = the(&s, r.name[0]), *b = the(&s, r.name[1]);
                assert_true(!strstr(turn[k].reply, "left") || a->x < b->x);
                assert_true(!strstr(turn[k].reply, "right") || a->x > b->x);
                assert_true(!strstr(turn[k].reply, "above") || a->y < b->y);
                assert_true(!strstr(turn[k].reply, "below") || a->y > b->y);
                assert_true(turn[k].reply[0] != '\0');
            } else {
                int commas = 0;
                for (const char *p = turn[k].reply; *p; p++) commas += *p == ',';
                assert_int_equal(commas, s.count - 1);
                for (int o = 0; o < s.count; o++) {
                    char whole[64];
                    scene_square(square, &s.object[o]);
                    snprintf(whole, sizeof whole, "%s %s %s %s", scene_size_names[s.object[o].size],
                             scene_colour_names[s.object[o].colour],
                             scene_shape_names[s.object[o].shape], square);
                    assert_non_null(strstr(turn[k].reply, whole));
                }
            }
        }
    }
    for (int t = 0; t < SCENE_TURN_TYPES; t++) assert_true(seen[t] > 500);
}

/* The corner squares, whose coordinates the placing of objects never reaches exactly. */
static void squares(void **state)
{
    (void)state;
    const struct {
        double x, y;
        const char *square;
    } cases[] = {{0.0, 0.0, "a1"},
                 {1.0, 1.0, "h8"},
                 {0.1249, 0.125, "a2"},
                 {0.5, 0.4999, "e4"},
                 {0.9999, 0.0001, "h1"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const scene_object o = {.x = cases[i].x, .y = cases[i].y};
        char square[3];
        scene_square(square, &o);
        assert_string_equal(square, cases[i].square);
    }
}

// ---- balance -------------------------------------------------------------------------------------

typedef struct tally {
    char form[128];      // the question with its names taken out
    char answer[24][16]; // answers seen
    int count[24], answers, total;
    scene_type type;
} tally;

/* "is the # left of the #": what a guesser without the image could go by, names aside. */
static void form_of(char out[128], const char *question)
{
    const reading r = read_question(question);
    const char *const object[] = {"object"};
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < r.words; i++) {
        const char *w = r.word[i];
        if (index_in(scene_size_names, SCENE_SIZES, w) >= 0 ||
            index_in(scene_colour_names, SCENE_COLOURS, w) >= 0)
            continue;
        const bool name =
            index_in(scene_shape_names, SCENE_SHAPES, w) >= 0 || index_in(object, 1, w) == 0;
        at += (size_t)snprintf(out + at, 128 - at, "%s ", name ? "#" : w);
    }
}

static void count_answer(tally *t, const char *answer)
{
    int a = 0;
    while (a < t->answers && strcmp(t->answer[a], answer)) a++;
    assert_true(a < 24);
    if (a == t->answers) snprintf(t->answer[t->answers++], 16, "%s", answer);
    t->count[a]++;
    t->total++;
}

static int most(const tally *t)
{
    int best = 0;
    for (int a = 0; a < t->answers; a++)
        if (t->count[a] > best) best = t->count[a];
    return best;
}

static void answers_are_even(void **state)
{
    (void)state;
    enum { SCENES = 6000, FORMS = 128 };
    tally *form = calloc(FORMS, sizeof *form);
    assert_non_null(form);
    int forms = 0, asked = 0, guessed = 0, by_type[SCENE_TYPES] = {0}, right[SCENE_TYPES] = {0};
    for (int64_t i = 0; i < SCENES; i++) {
        pc_scene s;
        scene_question q[12];
        scene_layout(&s, SEED, SCENE_TRAIN, i);
        const int n = scene_questions(q, 12, &s);
        for (int k = 0; k < n; k++) {
            char name[128];
            int f = 0;
            form_of(name, q[k].text);
            while (f < forms && strcmp(form[f].form, name)) f++;
            assert_true(f < FORMS);
            if (f == forms) {
                snprintf(form[f].form, sizeof form[f].form, "%s", name);
                form[f].type = q[k].type;
                forms++;
            }
            count_answer(&form[f], q[k].answer);
        }
    }
    for (int f = 0; f < forms; f++) {
        asked += form[f].total;
        guessed += most(&form[f]);
        by_type[form[f].type] += form[f].total;
        right[form[f].type] += most(&form[f]);
        const double share = (double)most(&form[f]) / form[f].total;
        const bool yes_or_no =
            !strcmp(form[f].answer[0], "yes") || !strcmp(form[f].answer[0], "no");
        if (form[f].total < 400) continue; // too few to tell
        if (yes_or_no && !(share <= 0.58)) // seen at most 0.55
            fail_msg("\"%s\": %.3f of %d answers are the same", form[f].form, share, form[f].total);
    }
    // What the best guesser by form gets: seen 34.6 % of all.
    const double bound[SCENE_TYPES] = {0.55, 0.16, 0.16, 0.42, 0.55, 0.56};
    for (int t = 0; t < SCENE_TYPES; t++) {
        const double share = (double)right[t] / by_type[t];
        print_message("blind %-10s %.3f of %d\n", scene_type_names[t], share, by_type[t]);
        assert_true(by_type[t] > asked / 14);
        assert_true(share <= bound[t]);
    }
    print_message("blind %.3f of %d, %d forms\n", (double)guessed / asked, asked, forms);
    assert_true((double)guessed / asked <= 0.36);
    assert_true(forms > 40); // several phrasings of each
    free(form);
}

// ---- splits --------------------------------------------------------------------------------------

static void held_out_pairs_stay_out_of_sight(void **state)
{
    (void)state;
    int pairs = 0, shapes[SCENE_SHAPES] = {0}, colours[SCENE_COLOURS] = {0};
    for (int c = 0; c < SCENE_COLOURS; c++) {
        for (int h = 0; h < SCENE_SHAPES; h++) {
            if (!scene_held_out(c, h)) continue;
            pairs++;
            shapes[h]++;
            colours[c]++;
        }
    }
    assert_int_equal(pairs, 8);
    for (int i = 0; i < 8; i++) assert_true(shapes[i] == 1 && colours[i] == 1);

    for (int split = 0; split < SCENE_SPLITS; split++) {
        for (int64_t i = 0; i < 3000; i++) {
            pc_scene s;
            int held = 0;
            scene_layout(&s, SEED, (scene_split)split, i);
            assert_true(s.count >= 1 && s.count <= SCENE_MAX_OBJECTS);
            for (int k = 0; k < s.count; k++)
                held += scene_held_out(s.object[k].colour, s.object[k].shape);
            assert_true(split == SCENE_UNSEEN ? held > 0 : held == 0);
        }
    }
}

static void texts_do_not_name_held_out_pairs(void **state)
{
    (void)state;
    static const char *const files[] = {"captions-train.jsonl", "captions-val.jsonl",
                                        "captions-test.jsonl",  "dense-train.json",
                                        "dense-val.json",       "tune-train.json",
                                        "vqa-train.json",       "vqa-val.json",
                                        "vqa-test.json",        "qa-val.jsonl",
                                        "qa-test.jsonl",        "pope-random.jsonl",
                                        "pope-popular.jsonl",   "pope-adversarial.jsonl"};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char *text = text_of(files[f]);
        for (int c = 0; c < SCENE_COLOURS; c++) {
            for (int h = 0; h < SCENE_SHAPES; h++) {
                char pair[32];
                snprintf(pair, sizeof pair, "%s %s", scene_colour_names[c], scene_shape_names[h]);
                if (scene_held_out(c, h) && strstr(text, pair))
                    fail_msg("%s names a %s", files[f], pair);
            }
        }
        free(text);
    }
    char *text = text_of("qa-unseen.jsonl"); // there they are asked about, and both ways
    int yes = 0, no = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        for (int h = 0; h < SCENE_SHAPES; h++) {
            char pair[32];
            snprintf(pair, sizeof pair, "%s %s", scene_colour_names[(3 * h + 1) % 8],
                     scene_shape_names[h]);
            if (!strstr(line, "existence") || !strstr(line, pair)) continue;
            yes += strstr(line, "\"answer\": \"yes\"") != NULL;
            no += strstr(line, "\"answer\": \"no\"") != NULL;
        }
    }
    free(text);
    assert_true(yes >= 10 && no >= 10);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void no_picture_is_there_twice(void **state)
{
    (void)state;
    const scenes_options o = small_options(0);
    char(*sum)[65] = calloc(4 * IMAGES, sizeof *sum);
    assert_non_null(sum);
    size_t n = 0;
    for (int s = 0; s < SCENE_SPLITS; s++) {
        for (int64_t i = 0; i < scenes_split_images(&o, (scene_split)s); i++) {
            char name[64];
            snprintf(name, sizeof name, "images/%s_%05d.png", scene_split_names[s], (int)i);
            assert_int_equal(pc_file_sha256(sum[n++], in(drawn, name)), PC_OK);
        }
    }
    qsort(sum, n, sizeof *sum, by_text);
    for (size_t i = 1; i < n; i++) assert_string_not_equal(sum[i - 1], sum[i]);
    free(sum);
}

// ---- files ---------------------------------------------------------------------------------------

static void the_same_seed_gives_the_same_bytes(void **state)
{
    (void)state;
    static const char *const files[] = {"README.md",
                                        "scenes.json",
                                        "captions-train.jsonl",
                                        "captions-unseen.jsonl",
                                        "dense-train.json",
                                        "dense-val.json",
                                        "vqa-train.json",
                                        "vqa-test.json",
                                        "tune-train.json",
                                        "qa-unseen.jsonl",
                                        "pope-random.jsonl",
                                        "pope-popular.jsonl",
                                        "pope-adversarial.jsonl",
                                        "images/train_00000.png",
                                        "images/train_00239.png",
                                        "images/test_00007.png",
                                        "images/unseen_00003.png"};
    const char *again = scratch_path("again"), *other = scratch_path("other");
    scenes_options o = small_options(3);
    assert_int_equal(scenes_write(again, &o), PC_OK);
    o.seed++;
    assert_int_equal(scenes_write(other, &o), PC_OK);
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char a[65], b[65], c[65];
        assert_int_equal(pc_file_sha256(a, in(drawn, files[f])), PC_OK);
        assert_int_equal(pc_file_sha256(b, in(again, files[f])), PC_OK);
        assert_int_equal(pc_file_sha256(c, in(other, files[f])), PC_OK);
        assert_string_equal(a, b);
        assert_string_not_equal(a, c);
    }
}

static void the_truth_file_agrees_with_the_questions(void **state)
{
    (void)state;
    json_error_t error;
    json_t *truth = json_load_file(in(drawn, "scenes.json"), 0, &error);
    assert_non_null(truth);
    assert_int_equal(json_array_size(truth), IMAGES + 3 * IMAGES / 4);
    size_t i;
    json_t *row;
    json_array_foreach(truth, i, row)
    {
        pc_scene s;
        int split = 0, index = -1;
        const char *image = json_string_value(json_object_get(row, "image"));
        const char *name = json_string_value(json_object_get(row, "split"));
        while (strcmp(scene_split_names[split], name)) split++;
        assert_int_equal(sscanf(strrchr(image, '_'), "_%d.png", &index), 1);
        scene_layout(&s, SEED, (scene_split)split, index);
        const json_t *objects = json_object_get(row, "objects");
        assert_int_equal(json_array_size(objects), s.count);
        for (int k = 0; k < s.count; k++) {
            const json_t *o = json_array_get(objects, (size_t)k);
            assert_string_equal(json_string_value(json_object_get(o, "shape")),
                                scene_shape_names[s.object[k].shape]);
            assert_true(fabs(json_number_value(json_object_get(o, "x")) - s.object[k].x) < 6e-5);
        }
    }
    json_decref(truth);

    // The flat questions are the conversations' turns.
    json_t *talk = json_load_file(in(drawn, "vqa-test.json"), 0, &error);
    char *flat = text_of("qa-test.jsonl"), *line = flat;
    assert_non_null(talk);
    json_array_foreach(talk, i, row)
    {
        const json_t *turns = json_object_get(row, "conversations");
        for (size_t k = 0; k + 1 < json_array_size(turns); k += 2) {
            json_t *one = json_loads(line, JSON_DISABLE_EOF_CHECK, &error);
            assert_non_null(one);
            const char *text =
                json_string_value(json_object_get(json_array_get(turns, k), "value"));
            if (k == 0) text += strlen("<image>\n");
            assert_string_equal(text, json_string_value(json_object_get(one, "question")));
            assert_string_equal(json_string_value(
                                    json_object_get(json_array_get(turns, k + 1), "value")),
                                json_string_value(json_object_get(one, "answer")));
            json_decref(one);
            line = strchr(line, '\n') + 1;
        }
    }
    assert_int_equal(*line, '\0');
    free(flat);
    json_decref(talk);
}

static void presence_is_asked_both_ways(void **state)
{
    (void)state;
    static const char *const files[] = {"pope-random.jsonl", "pope-popular.jsonl",
                                        "pope-adversarial.jsonl"};
    int lured[3] = {0}, absent[3] = {0};
    for (int f = 0; f < 3; f++) {
        char *text = text_of(files[f]);
        int yes = 0, no = 0;
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
            json_error_t error;
            json_t *row = json_loads(line, 0, &error);
            assert_non_null(row);
            pc_scene s;
            int index;
            const char *image = json_string_value(json_object_get(row, "image"));
            assert_int_equal(sscanf(image, "images/test_%d.png", &index), 1);
            scene_layout(&s, SEED, SCENE_TEST, index);
            const reading r = read_question(json_string_value(json_object_get(row, "text")));
            const bool there = matching(&s, r.name[0], NULL) > 0;
            assert_string_equal(json_string_value(json_object_get(row, "label")), yes_no(there));
            yes += there;
            no += !there;
            const phrase colour = {-1, r.name[0].colour, -1}, shape = {-1, -1, r.name[0].shape};
            if (!there) {
                absent[f]++;
                lured[f] += matching(&s, colour, NULL) > 0 || matching(&s, shape, NULL) > 0;
            }
            json_decref(row);
        }
        assert_int_equal(yes, no);
        assert_true(yes > 60);
        free(text);
    }
    assert_int_equal(lured[2], absent[2]); // adversarial pairs share an attribute with the picture
    assert_true(lured[0] < absent[0]);
}

// ---- pictures ------------------------------------------------------------------------------------

static int64_t pixels_that_differ(const uint8_t *a, const uint8_t *b, int size)
{
    int64_t n = 0;
    for (int64_t i = 0; i < (int64_t)size * size; i++) n += memcmp(a + 3 * i, b + 3 * i, 3) != 0;
    return n;
}

/* An object's visible share: pixels that change with its colour, over those when it is alone. */
static void covered_objects_stay_recognisable(void **state)
{
    (void)state;
    enum { SIDE = 64 };
    static uint8_t first[3 * SIDE * SIDE], second[3 * SIDE * SIDE];
    static float canvas[3 * SIDE * SIDE];
    double least = 1.0;
    for (int64_t i = 0; i < 150; i++) {
        pc_scene whole;
        scene_layout(&whole, SEED, SCENE_TEST, i);
        for (int k = 0; k < whole.count; k++) {
            int64_t seen[2];
            for (int alone = 0; alone < 2; alone++) {
                pc_scene s = whole;
                for (int o = 0; o < s.count && alone; o++)
                    if (o != k) s.object[o].radius = 1e-9;
                scene_draw(first, canvas, &s, SIDE);
                for (int c = 0; c < 3; c++) {
                    s.object[k].rgb[c] = fmod(s.object[k].rgb[c] + 0.5, 1.0);
                    s.object[k].rgb_texture[c] = fmod(s.object[k].rgb_texture[c] + 0.5, 1.0);
                }
                scene_draw(second, canvas, &s, SIDE);
                seen[alone] = pixels_that_differ(first, second, SIDE);
            }
            assert_true(seen[1] > 40); // a small ring covers about 70 of 4096 pixels
            const double share = (double)seen[0] / (double)seen[1];
            if (share < least) least = share;
        }
    }
    print_message("least visible share of an object: %.2f\n", least);
    assert_true(least >= 0.80); // seen 0.94
}

static void backgrounds_are_uneven_and_pictures_noisy(void **state)
{
    (void)state;
    enum { SIDE = 64 };
    static uint8_t rgb[3 * SIDE * SIDE];
    static float canvas[3 * SIDE * SIDE];
    for (int64_t i = 0; i < 40; i++) {
        pc_scene s;
        scene_layout(&s, SEED, SCENE_TRAIN, i);
        s.count = 0; // the background alone
        scene_draw(rgb, canvas, &s, SIDE);
        int low = 255, high = 0, equal = 0;
        for (int64_t p = 0; p + 1 < SIDE * SIDE; p++) {
            const int value = rgb[3 * p];
            low = value < low ? value : low;
            high = value > high ? value : high;
            equal += value == rgb[3 * (p + 1)];
        }
        assert_true(high - low >= 12);
        assert_true(equal < SIDE * SIDE / 3);
    }
}

// ---- bad input -----------------------------------------------------------------------------------

static void bad_options(void **state)
{
    (void)state;
    const char *out = scratch_path("never");
    const struct {
        scenes_options o;
        const char *says;
    } cases[] = {
        {{.images = 0, .size = 64, .questions = 12}, "0 images"},
        {{.images = -5, .size = 64, .questions = 12}, "-5 images"},
        {{.images = 10, .size = 31, .questions = 12}, "31 pixels"},
        {{.images = 10, .size = 513, .questions = 12}, "513 pixels"},
        {{.images = 10, .size = 64, .questions = 0}, "0 questions"},
        {{.images = 10, .size = 64, .questions = 33}, "33 questions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(scenes_write(out, &cases[i].o), PC_ERR_USAGE);
        assert_non_null(strstr(pc_error_text(), cases[i].says));
        assert_false(pc_file_exists(out));
    }
}

static void places_that_cannot_be_written(void **state)
{
    (void)state;
    scenes_options o = small_options(2);
    o.images = 4;
    scratch_write("file", "x", 1);
    assert_int_equal(scenes_write(scratch_path("file"), &o), PC_ERR_IO); // a file, not a folder
    assert_non_null(strstr(pc_error_text(), "file"));

    // A picture's place is taken by a folder: the worker's message arrives, no scenes.json is left.
    const char *out = scratch_path("blocked");
    assert_int_equal(pc_make_dirs(in(out, "images/train_00002.png")), PC_OK);
    assert_int_equal(scenes_write(out, &o), PC_ERR_IO);
    assert_non_null(strstr(pc_error_text(), "train_00002.png"));
    assert_false(pc_file_exists(in(out, "scenes.json")));
}

static int set_up(void **state)
{
    (void)state;
    scratch_open();
    static char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch_path("drawn"));
    drawn = folder;
    const scenes_options o = small_options(0);
    return scenes_write(drawn, &o) != PC_OK;
}

static int tear_down(void **state)
{
    (void)state;
    scratch_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_follow_from_the_objects),
        cmocka_unit_test(dense_turns_follow_from_the_objects),
        cmocka_unit_test(squares),
        cmocka_unit_test(answers_are_even),
        cmocka_unit_test(held_out_pairs_stay_out_of_sight),
        cmocka_unit_test(texts_do_not_name_held_out_pairs),
        cmocka_unit_test(no_picture_is_there_twice),
        cmocka_unit_test(the_same_seed_gives_the_same_bytes),
        cmocka_unit_test(the_truth_file_agrees_with_the_questions),
        cmocka_unit_test(presence_is_asked_both_ways),
        cmocka_unit_test(covered_objects_stay_recognisable),
        cmocka_unit_test(backgrounds_are_uneven_and_pictures_noisy),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(places_that_cannot_be_written),
    };
    return cmocka_run_group_tests_name("scenes", tests, set_up, tear_down);
}
