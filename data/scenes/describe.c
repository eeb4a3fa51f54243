/*
 * describe.c - what is said of every object of a scene, and where it is.
 *
 * Places are squares of an 8 x 8 board: columns a to h from the left, rows 1 to 8 from the top, so
 * "c5" is the third column, fifth row. A place follows the name it belongs to at once: to predict
 * it, a decoder has to find the object while it reads the name, which is what questions that
 * compare two named objects need. That made relations learnable: docs/scenes.md.
 */
#include "data/scenes/language.h"

const char *const scene_turn_names[SCENE_TURN_TYPES] = {"description", "place", "content", "side"};

static int cell(double position)
{
    const int c = (int)(position * SCENE_GRID);
    return c < 0 ? 0 : c >= SCENE_GRID ? SCENE_GRID - 1 : c;
}

void scene_square(char out[3], const scene_object *o)
{
    out[0] = (char)('a' + cell(o->x));
    out[1] = (char)('1' + cell(o->y));
    out[2] = '\0';
}

static void say_object(scene_text *t, const scene_object *o)
{
    say(t, "%s %s %s", scene_size_names[o->size], scene_colour_names[o->colour],
        scene_shape_names[o->shape]);
}

static scene_text begin(scene_turn *turn, scene_turn_type type)
{
    turn->type = type;
    return (scene_text){turn->request, sizeof turn->request};
}

static scene_text reply_of(scene_turn *turn)
{
    return (scene_text){turn->reply, sizeof turn->reply};
}

/* "large red circle c5, small blue star f2" */
static void describe(scene_turn *turn, const pc_scene *s, const int *order)
{
    scene_text t = begin(turn, SCENE_DESCRIPTION);
    say(&t, "Describe the scene.");
    t = reply_of(turn);
    for (int i = 0; i < s->count; i++) {
        char square[3];
        scene_square(square, &s->object[order[i]]);
        say(&t, "%s", i ? ", " : "");
        say_object(&t, &s->object[order[i]]);
        say(&t, " %s", square);
    }
}

static bool say_where(scene_turn *turn, const pc_scene *s, int i, scene_random *r)
{
    scene_name n;
    char name[SCENE_NAME];
    if (!scene_name_alone(&n, s, i, true, true, r)) return false;
    scene_text t = begin(turn, SCENE_PLACE);
    say(&t, "Where is the %s?", scene_name_text(name, n, false));
    scene_square(turn->reply, &s->object[i]);
    return true;
}

static bool say_what(scene_turn *turn, const pc_scene *s, int i)
{
    char square[3], other[3];
    scene_square(square, &s->object[i]);
    for (int k = 0; k < s->count; k++) {
        scene_square(other, &s->object[k]);
        if (k != i && other[0] == square[0] && other[1] == square[1]) return false;
    }
    scene_text t = begin(turn, SCENE_CONTENT);
    say(&t, "What is at %s?", square);
    t = reply_of(turn);
    say_object(&t, &s->object[i]);
    return true;
}

/* "Where is the circle from the star?" "left above": each direction that is clear enough */
static bool say_side(scene_turn *turn, const pc_scene *s, int i, int j, scene_random *r)
{
    static const double margin = 0.1;
    const double dx = s->object[i].x - s->object[j].x, dy = s->object[i].y - s->object[j].y;
    scene_name a, b;
    char an[SCENE_NAME], bn[SCENE_NAME];
    if (!scene_name_alone(&a, s, i, true, true, r) || !scene_name_alone(&b, s, j, true, true, r))
        return false;
    if (fabs(dx) <= margin && fabs(dy) <= margin) return false;
    scene_text t = begin(turn, SCENE_SIDE);
    say(&t, "Where is the %s from the %s?", scene_name_text(an, a, false),
        scene_name_text(bn, b, false));
    t = reply_of(turn);
    if (fabs(dx) > margin) say(&t, "%s", dx < 0.0 ? "left" : "right");
    if (fabs(dy) > margin)
        say(&t, "%s%s", fabs(dx) > margin ? " " : "", dy < 0.0 ? "above" : "below");
    return true;
}

int scene_turns(scene_turn out[SCENE_TURNS], const pc_scene *scene)
{
    scene_random r = scene_random_at(scene, SCENE_FOR_DESCRIPTION);
    int order[SCENE_MAX_OBJECTS], pair[SCENE_MAX_OBJECTS * (SCENE_MAX_OBJECTS - 1)], n = 0;
    scene_order(order, scene->count, &r);
    describe(&out[n++], scene, order);
    for (int i = 0; i < scene->count; i++) {
        n += say_where(&out[n], scene, order[i], &r);
        n += say_what(&out[n], scene, order[i]);
    }
    const int others = scene->count - 1, pairs = scene->count * others;
    scene_order(pair, pairs, &r);
    for (int k = 0; k < pairs && k < SCENE_SIDES; k++) {
        const int i = pair[k] / others, j = (i + 1 + pair[k] % others) % scene->count;
        n += say_side(&out[n], scene, i, j, &r);
    }
    return n;
}
