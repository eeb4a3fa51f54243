/*
 * questions.c - questions about a scene, with answers that the question alone does not give away.
 *
 * Yes/no questions first decide the answer, evenly, then look for a question that has it; where the
 * scenes offer one answer more often than the other, the frequent one is kept with a probability
 * below one (KEEP_*, measured: see the balance test). Negatives of existence are mostly near misses:
 * colour and shape both present, on different objects.
 */
#include <string.h>

#include "data/scenes/language.h"

const char *const scene_type_names[SCENE_TYPES] = {"existence", "colour",   "shape",
                                                   "count",     "relation", "comparison"};

static bool forbidden(const pc_scene *s, scene_name n)
{
    return s->split != SCENE_UNSEEN && n.colour != ANY && n.shape != ANY &&
           scene_held_out(n.colour, n.shape);
}

static void answer(scene_question *q, scene_type type, const char *text)
{
    q->type = type;
    scene_text t = {q->answer, sizeof q->answer};
    say(&t, "%s", text);
}

static void answer_yes_no(scene_question *q, scene_type type, bool yes)
{
    answer(q, type, yes ? "yes" : "no");
}

/* The attributes that a form of existence question uses. */
static scene_name masked(int form, int size, int colour, int shape)
{
    switch (form) {
    case 0: return (scene_name){ANY, ANY, shape};
    case 1: return (scene_name){ANY, colour, ANY};
    case 2: return (scene_name){size, ANY, shape};
    case 3: return (scene_name){size, colour, ANY};
    case 4: return (scene_name){size, colour, shape};
    default: return (scene_name){ANY, colour, shape};
    }
}

/* A name of the given form that fits nothing in the scene. */
static bool name_absent(scene_name *out, const pc_scene *s, int form, scene_random *r)
{
    for (int attempt = 0; attempt < 64; attempt++) {
        int size = random_below(r, SCENE_SIZES), colour = random_below(r, SCENE_COLOURS);
        int shape = random_below(r, SCENE_SHAPES);
        if (random_chance(r, 0.65)) colour = s->object[random_below(r, s->count)].colour;
        if (random_chance(r, 0.65)) shape = s->object[random_below(r, s->count)].shape;
        // The held-out pairs are asked about as often when absent as when present.
        if (s->split == SCENE_UNSEEN && form >= 4 && random_chance(r, 0.4))
            colour = (3 * shape + 1) % SCENE_COLOURS;
        *out = masked(form, size, colour, shape);
        if (scene_count_of(s, *out) == 0 && !forbidden(s, *out)) return true;
    }
    return false;
}

static bool ask_existence(scene_question *q, const pc_scene *s, scene_random *r)
{
    static const double share[6] = {0.14, 0.14, 0.10, 0.08, 0.10, 0.44};
    const int form = random_weighted(r, share, 6);
    const bool yes = random_chance(r, 0.5);
    scene_name n;
    if (yes) {
        const scene_object *o = &s->object[random_below(r, s->count)];
        n = masked(form, o->size, o->colour, o->shape);
    } else if (!name_absent(&n, s, form, r))
        return false;

    char name[SCENE_NAME];
    scene_name_text(name, n, false);
    const char *a = scene_article(name);
    scene_text t = {q->text, sizeof q->text};
    switch (random_below(r, 5)) {
    case 0: say(&t, "Is there %s %s?", a, name); break;
    case 1: say(&t, "Is there %s %s in the picture?", a, name); break;
    case 2: say(&t, "Can you see %s %s?", a, name); break;
    case 3: say(&t, "Is there %s %s in the image?", a, name); break;
    default: say(&t, "Does the picture show %s %s?", a, name); break;
    }
    answer_yes_no(q, SCENE_EXISTENCE, yes);
    return true;
}

static bool ask_colour(scene_question *q, const pc_scene *s, scene_random *r)
{
    const int i = random_below(r, s->count);
    scene_name n;
    if (!scene_name_alone(&n, s, i, false, true, r)) return false;
    char name[SCENE_NAME];
    scene_name_text(name, n, false);
    scene_text t = {q->text, sizeof q->text};
    switch (random_below(r, 4)) {
    case 0: say(&t, "What colour is the %s?", name); break;
    case 1: say(&t, "Which colour is the %s?", name); break;
    case 2: say(&t, "What colour does the %s have?", name); break;
    default: say(&t, "The %s is of what colour?", name); break;
    }
    answer(q, SCENE_COLOUR, scene_colour_names[s->object[i].colour]);
    return true;
}

static bool ask_shape(scene_question *q, const pc_scene *s, scene_random *r)
{
    const int i = random_below(r, s->count);
    scene_name n;
    if (!scene_name_alone(&n, s, i, true, false, r)) return false;
    char name[SCENE_NAME];
    scene_name_text(name, n, false);
    scene_text t = {q->text, sizeof q->text};
    switch (random_below(r, 4)) {
    case 0: say(&t, "What shape is the %s?", name); break;
    case 1: say(&t, "Which shape is the %s?", name); break;
    case 2: say(&t, "What shape does the %s have?", name); break;
    default: say(&t, "The %s is of what shape?", name); break;
    }
    answer(q, SCENE_SHAPE, scene_shape_names[s->object[i].shape]);
    return true;
}

/* A value of an attribute that scene_count_of() sees k times; the rarer k are sought more. */
static bool pick_by_count(int *value, int *k, const int *counts, int values, scene_random *r)
{
    static const double want[SCENE_MAX_OBJECTS + 1] = {0.45, 0.33, 1.5, 3.0, 3.0};
    double weight[SCENE_MAX_OBJECTS + 1] = {0};
    int with[SCENE_MAX_OBJECTS + 1] = {0};
    for (int v = 0; v < values; v++) with[counts[v]]++;
    for (int c = 0; c <= SCENE_MAX_OBJECTS; c++) weight[c] = with[c] ? want[c] : 0.0;
    *k = random_weighted(r, weight, SCENE_MAX_OBJECTS + 1);
    int nth = random_below(r, with[*k]);
    for (int v = 0; v < values; v++) {
        if (counts[v] != *k || nth-- > 0) continue;
        *value = v;
        return true;
    }
    return false;
}

static bool ask_count(scene_question *q, const pc_scene *s, scene_random *r)
{
    static const double share[4] = {0.34, 0.28, 0.23, 0.15};
    const int form = random_weighted(r, share, 4);
    int counts[SCENE_SHAPES] = {0}, value = 0, k = s->count;
    scene_name n = {ANY, ANY, ANY};
    if (form == 0) {
        for (int i = 0; i < s->count; i++) counts[s->object[i].shape]++;
        if (!pick_by_count(&value, &k, counts, SCENE_SHAPES, r)) return false;
        n.shape = value;
    } else if (form == 1) {
        for (int i = 0; i < s->count; i++) counts[s->object[i].colour]++;
        if (!pick_by_count(&value, &k, counts, SCENE_COLOURS, r)) return false;
        n.colour = value;
    } else if (form == 2) {
        for (int i = 0; i < s->count; i++) counts[s->object[i].size]++;
        if (!pick_by_count(&value, &k, counts, SCENE_SIZES, r)) return false;
        n.size = value;
    }

    char name[SCENE_NAME], number[8];
    scene_name_text(name, n, true);
    scene_text t = {q->text, sizeof q->text};
    switch (random_below(r, 4)) {
    case 0: say(&t, "How many %s are there?", name); break;
    case 1: say(&t, "How many %s can you see?", name); break;
    case 2: say(&t, "How many %s does the picture show?", name); break;
    default: say(&t, "What is the number of %s?", name); break;
    }
    scene_text digits = {number, sizeof number};
    say(&digits, "%d", k);
    answer(q, SCENE_COUNT, number);
    return true;
}

/* Two different objects, each with a name of its own. */
static bool pick_two(int *i, int *j, scene_name *a, scene_name *b, const pc_scene *s,
                     scene_random *r)
{
    if (s->count < 2) return false;
    *i = random_below(r, s->count);
    *j = (*i + 1 + random_below(r, s->count - 1)) % s->count;
    return scene_name_alone(a, s, *i, true, true, r) && scene_name_alone(b, s, *j, true, true, r);
}

static bool ask_relation(scene_question *q, const pc_scene *s, scene_random *r)
{
    static const double margin = 0.125; // closer than this, nobody should be asked
    int i, j;
    scene_name a, b;
    if (!pick_two(&i, &j, &a, &b, s, r)) return false;
    const bool across = random_chance(r, 0.5);
    const double d = across ? s->object[i].x - s->object[j].x : s->object[i].y - s->object[j].y;
    if (fabs(d) < margin) return false;

    static const char *const word[2][2] = {{"above", "below"}, {"left of", "right of"}};
    static const char *const choice[2][2] = {{"above", "below"}, {"left", "right"}};
    char an[SCENE_NAME], bn[SCENE_NAME];
    scene_name_text(an, a, false);
    scene_name_text(bn, b, false);
    scene_text t = {q->text, sizeof q->text};
    const int truth = d > 0.0, asked = random_below(r, 2);
    switch (random_below(r, 6)) {
    case 0:
        say(&t, "Is the %s %s the %s?", an, word[across][asked], bn);
        answer_yes_no(q, SCENE_RELATION, truth == asked);
        break;
    case 1:
        say(&t, "Is the %s %s%s the %s?", an, across ? "to the " : "", word[across][asked], bn);
        answer_yes_no(q, SCENE_RELATION, truth == asked);
        break;
    case 2:
        say(&t, "Does the %s lie %s the %s?", an, word[across][asked], bn);
        answer_yes_no(q, SCENE_RELATION, truth == asked);
        break;
    case 3:
        say(&t, "Does the %s lie %s the %s?", an, across ? "left or right of" : "above or below",
            bn);
        answer(q, SCENE_RELATION, choice[across][truth]);
        break;
    default:
        say(&t, "Is the %s %s the %s?", an, across ? "left or right of" : "above or below", bn);
        answer(q, SCENE_RELATION, choice[across][truth]);
        break;
    }
    return true;
}

/* "Are there more circles than squares?", also of colours and of sizes */
static bool ask_more(scene_question *q, const pc_scene *s, scene_random *r)
{
    static const double keep_tie = 0.30;
    const bool of_shapes = random_chance(r, 0.55);
    const scene_object *o = &s->object[random_below(r, s->count)];
    const scene_object *p = &s->object[random_below(r, s->count)];
    int x = of_shapes ? o->shape : o->colour, y = of_shapes ? p->shape : p->colour;
    if (x == y || random_chance(r, 0.3)) y = random_below(r, SCENE_SHAPES);
    if (x == y) return false;
    if (random_chance(r, 0.5)) {
        const int kept = x;
        x = y;
        y = kept;
    }
    const scene_name a = of_shapes ? (scene_name){ANY, ANY, x} : (scene_name){ANY, x, ANY};
    const scene_name b = of_shapes ? (scene_name){ANY, ANY, y} : (scene_name){ANY, y, ANY};
    const int more = scene_count_of(s, a) - scene_count_of(s, b);
    if (more == 0 && !random_chance(r, keep_tie)) return false;

    char an[SCENE_NAME], bn[SCENE_NAME];
    scene_name_text(an, a, true);
    scene_name_text(bn, b, true);
    scene_text t = {q->text, sizeof q->text};
    if (random_chance(r, 0.5))
        say(&t, "Are there more %s than %s?", an, bn);
    else
        say(&t, "Do you see more %s than %s?", an, bn);
    answer_yes_no(q, SCENE_COMPARISON, more > 0);
    return true;
}

/* "Is the circle larger than the star?" Only of objects whose sizes differ. */
static bool ask_larger(scene_question *q, const pc_scene *s, scene_random *r)
{
    int i, j;
    scene_name a, b;
    if (!pick_two(&i, &j, &a, &b, s, r)) return false;
    if (s->object[i].size == s->object[j].size || a.size != ANY || b.size != ANY) return false;
    const bool larger = random_chance(r, 0.5);
    char an[SCENE_NAME], bn[SCENE_NAME];
    scene_name_text(an, a, false);
    scene_name_text(bn, b, false);
    scene_text t = {q->text, sizeof q->text};
    say(&t, "Is the %s %s than the %s?", an, larger ? "larger" : "smaller", bn);
    answer_yes_no(q, SCENE_COMPARISON, (s->object[i].size > s->object[j].size) == larger);
    return true;
}

/* "Is the circle of the same colour as the star?", also of shape and of size */
static bool ask_same(scene_question *q, const pc_scene *s, scene_random *r)
{
    static const char *const what[3] = {"colour", "shape", "size"};
    static const double keep_no[3] = {0.50, 0.50, 1.0}; // "no" is that much easier to find
    const int form = random_below(r, 3);
    if (s->count < 2) return false;
    const int i = random_below(r, s->count);
    const int j = (i + 1 + random_below(r, s->count - 1)) % s->count;
    const scene_object *o = &s->object[i], *p = &s->object[j];
    scene_name a, b;
    if (!scene_name_alone(&a, s, i, form != 0, form != 1, r)) return false;
    if (!scene_name_alone(&b, s, j, form != 0, form != 1, r)) return false;
    if (form == 2 && (a.size != ANY || b.size != ANY)) return false;
    const bool same = form == 0   ? o->colour == p->colour
                      : form == 1 ? o->shape == p->shape
                                  : o->size == p->size;
    if (!same && !random_chance(r, keep_no[form])) return false;

    char an[SCENE_NAME], bn[SCENE_NAME];
    scene_name_text(an, a, false);
    scene_name_text(bn, b, false);
    scene_text t = {q->text, sizeof q->text};
    if (random_chance(r, 0.5))
        say(&t, "Is the %s of the same %s as the %s?", an, what[form], bn);
    else
        say(&t, "Do the %s and the %s have the same %s?", an, bn, what[form]);
    answer_yes_no(q, SCENE_COMPARISON, same);
    return true;
}

static bool ask_comparison(scene_question *q, const pc_scene *s, scene_random *r)
{
    static bool (*const kind[3])(scene_question *, const pc_scene *,
                                 scene_random *) = {ask_more, ask_larger, ask_same};
    const int first = random_chance(r, 0.16) ? 0 : 1 + random_below(r, 2);
    for (int attempt = 0; attempt < 16; attempt++) // the kinds that are harder to find, longer
        if (kind[first](q, s, r)) return true;
    return ask_more(q, s, r);
}

static bool ask(scene_question *q, scene_type type, const pc_scene *s, scene_random *r)
{
    switch (type) {
    case SCENE_EXISTENCE: return ask_existence(q, s, r);
    case SCENE_COLOUR: return ask_colour(q, s, r);
    case SCENE_SHAPE: return ask_shape(q, s, r);
    case SCENE_COUNT: return ask_count(q, s, r);
    case SCENE_RELATION: return ask_relation(q, s, r);
    default: return ask_comparison(q, s, r);
    }
}

static bool asked_before(const scene_question *q, int n, const char *text)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(q[i].text, text)) return true;
    return false;
}

int scene_questions(scene_question *out, int wanted, const pc_scene *scene)
{
    // A round of twelve; its first entries are what a scene of one object can always answer.
    static const scene_type round[12] = {SCENE_RELATION,   SCENE_COLOUR,    SCENE_COUNT,
                                         SCENE_SHAPE,      SCENE_EXISTENCE, SCENE_RELATION,
                                         SCENE_COMPARISON, SCENE_COLOUR,    SCENE_COUNT,
                                         SCENE_SHAPE,      SCENE_RELATION,  SCENE_EXISTENCE};
    scene_random r = scene_random_at(scene, SCENE_FOR_QUESTIONS);
    int n = 0;
    for (int slot = 0; n < wanted && slot < 4 * wanted; slot++) {
        for (int attempt = 0; attempt < 48; attempt++) {
            if (!ask(&out[n], round[slot % 12], scene, &r)) continue;
            if (asked_before(out, n, out[n].text)) continue;
            n++;
            break;
        }
    }
    for (int i = n - 1; i > 0; i--) { // types in a random order
        const int j = random_below(&r, i + 1);
        const scene_question kept = out[i];
        out[i] = out[j];
        out[j] = kept;
    }
    return n;
}
