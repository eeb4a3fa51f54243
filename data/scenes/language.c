/*
 * language.c - captions, and which pairs POPE asks about.
 */
#include <stdarg.h>
#include <stdio.h>

#include "data/scenes/language.h"

void say(scene_text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(t->at, t->room, fmt, args);
    va_end(args);
    PC_ASSERT(n >= 0 && (size_t)n < t->room, "a scene's text of %d bytes, room for %zu", n,
              t->room);
    t->at += n;
    t->room -= (size_t)n;
}

const char *scene_article(const char *word)
{
    return word[0] == 'o' ? "an" : "a"; // "orange", "object": no other name starts with a vowel
}

void scene_order(int *order, int count, scene_random *r)
{
    for (int i = 0; i < count; i++) order[i] = i;
    for (int i = count - 1; i > 0; i--) {
        const int j = random_below(r, i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

static const char *colour_of(const scene_object *o)
{
    return scene_colour_names[o->colour];
}

static const char *shape_of(const scene_object *o)
{
    return scene_shape_names[o->shape];
}

static const char *third(double position, const char *low, const char *high)
{
    return position < 1.0 / 3.0 ? low : position < 2.0 / 3.0 ? "" : high;
}

static void say_place(scene_text *t, const scene_object *o)
{
    const char *row = third(o->y, "top", "bottom"), *column = third(o->x, "left", "right");
    if (!row[0] && !column[0])
        say(t, "in the middle");
    else
        say(t, "at the %s%s%s", row, row[0] && column[0] ? " " : "", column);
}

static const char *separator(int i, int count)
{
    return i == 0 ? "" : i + 1 < count ? ", " : " and ";
}

/* "a large red circle", "a small green star and a large blue ring" */
static void say_list(scene_text *t, const pc_scene *s, const int *order, int from)
{
    for (int i = from; i < s->count; i++) {
        const scene_object *o = &s->object[order[i]];
        say(t, "%sa %s %s %s", separator(i - from, s->count - from), scene_size_names[o->size],
            colour_of(o), shape_of(o));
    }
}

static void say_places(scene_text *t, const pc_scene *s, const int *order)
{
    for (int i = 0; i < s->count; i++) {
        const scene_object *o = &s->object[order[i]];
        say(t, "%s%s %s %s ", separator(i, s->count), scene_article(colour_of(o)), colour_of(o),
            shape_of(o));
        say_place(t, o);
    }
}

/* "a large red circle left of a small green star", and the rest as a list */
static void say_relation(scene_text *t, const pc_scene *s, const int *order)
{
    if (s->count < 2) {
        say_list(t, s, order, 0);
        return;
    }
    const scene_object *a = &s->object[order[0]], *b = &s->object[order[1]];
    const double dx = a->x - b->x, dy = a->y - b->y;
    const char *word = fabs(dx) >= fabs(dy) ? dx < 0 ? "left of" : "right of"
                       : dy < 0             ? "above"
                                            : "below";
    say(t, "a %s %s %s %s a %s %s %s", scene_size_names[a->size], colour_of(a), shape_of(a), word,
        scene_size_names[b->size], colour_of(b), shape_of(b));
    if (s->count > 2) {
        say(t, ", and ");
        say_list(t, s, order, 2);
    }
}

static void say_textures(scene_text *t, const pc_scene *s, const int *order)
{
    for (int i = 0; i < s->count; i++) {
        const scene_object *o = &s->object[order[i]];
        say(t, "%sa %s %s %s", separator(i, s->count), scene_texture_names[o->texture],
            colour_of(o), shape_of(o));
    }
}

void scene_captions(char out[SCENE_CAPTIONS][SCENE_TEXT], const pc_scene *scene)
{
    scene_random r = scene_random_at(scene, SCENE_FOR_CAPTIONS);
    for (int c = 0; c < SCENE_CAPTIONS; c++) {
        scene_text t = {out[c], SCENE_TEXT};
        int order[SCENE_MAX_OBJECTS];
        scene_order(order, scene->count, &r);
        switch (c) {
        case 0: say_list(&t, scene, order, 0); break;
        case 1: say_places(&t, scene, order); break;
        case 2: say_relation(&t, scene, order); break;
        default: say_textures(&t, scene, order); break;
        }
    }
}

static bool shows(const pc_scene *s, int colour, int shape)
{
    for (int i = 0; i < s->count; i++)
        if (s->object[i].colour == colour && s->object[i].shape == shape) return true;
    return false;
}

/* How easily a pair is mistaken for one that is there: attributes that the scene shows. */
static int lures(const pc_scene *s, int colour, int shape)
{
    int has_colour = 0, has_shape = 0;
    for (int i = 0; i < s->count; i++) {
        has_colour |= s->object[i].colour == colour;
        has_shape |= s->object[i].shape == shape;
    }
    return has_colour + has_shape;
}

int scene_presence(scene_pair out[2 * SCENE_PRESENCE], const pc_scene *scene, scene_lure lure,
                   const int64_t frequency[SCENE_COLOURS][SCENE_SHAPES])
{
    scene_random r = scene_random_at(scene, SCENE_FOR_PRESENCE);
    int order[SCENE_MAX_OBJECTS], n = 0;
    scene_order(order, scene->count, &r);
    for (int i = 0; i < scene->count && n < SCENE_PRESENCE; i++) {
        const scene_object *o = &scene->object[order[i]];
        bool new_pair = true;
        for (int k = 0; k < n; k++)
            new_pair &= out[k].colour != o->colour || out[k].shape != o->shape;
        if (new_pair) out[n++] = (scene_pair){o->colour, o->shape, true};
    }

    // As many absent pairs, the most alluring first, ties in a random order.
    const int present = n;
    bool taken[SCENE_COLOURS][SCENE_SHAPES] = {{false}};
    while (n < 2 * present) {
        scene_pair best = {0, 0, false};
        double best_score = -1.0;
        for (int c = 0; c < SCENE_COLOURS; c++) {
            for (int h = 0; h < SCENE_SHAPES; h++) {
                const double chance = random_unit(&r);
                const double score = lure == SCENE_LURE_POPULAR ? (double)frequency[c][h] + chance
                                     : lure == SCENE_LURE_ADVERSARIAL ? lures(scene, c, h) + chance
                                                                      : chance;
                if (scene_held_out(c, h) || taken[c][h] || shows(scene, c, h)) continue;
                if (score > best_score) {
                    best_score = score;
                    best = (scene_pair){c, h, false};
                }
            }
        }
        taken[best.colour][best.shape] = true;
        out[n++] = best;
    }
    return n;
}
