/*
 * layout.c - which objects a scene has, how they look, and where they lie.
 *
 * 1 to 4 objects. Later objects often repeat a colour or a shape of earlier ones, so that counting
 * and naming need the whole picture, and seldom both. Centres are drawn freely; two objects may
 * overlap, but their centres stay at least 0.78 of the sum of their radii apart, and small objects
 * are painted over large ones, so that the covered one stays recognisable.
 */
#include "data/scenes/random.h"

const char *const scene_split_names[SCENE_SPLITS] = {"train", "val", "test", "unseen"};
const char *const scene_shape_names[SCENE_SHAPES] = {"circle", "square", "triangle", "diamond",
                                                     "star",   "cross",  "ring",     "heart"};
const char *const scene_colour_names[SCENE_COLOURS] = {"red",  "orange", "yellow", "green",
                                                       "blue", "purple", "white",  "black"};
const char *const scene_size_names[SCENE_SIZES] = {"small", "large"};
const char *const scene_texture_names[SCENE_TEXTURES] = {"plain", "striped", "dotted"};

/* HSV boxes: hue in degrees, saturation, value; each a middle and the largest distance from it. */
static const struct {
    double hue, hue_by, sat, sat_by, val, val_by;
} paint[SCENE_COLOURS] = {
    {357, 8, 0.88, 0.10, 0.84, 0.10},  // red
    {28, 6, 0.90, 0.09, 0.95, 0.05},   // orange
    {54, 6, 0.85, 0.13, 0.95, 0.05},   // yellow
    {125, 22, 0.76, 0.18, 0.66, 0.14}, // green
    {220, 16, 0.82, 0.14, 0.82, 0.15}, // blue
    {284, 12, 0.68, 0.16, 0.68, 0.14}, // purple
    {60, 60, 0.03, 0.03, 0.97, 0.03},  // white
    {240, 90, 0.20, 0.20, 0.09, 0.05}, // black
};

bool scene_held_out(int colour, int shape)
{
    return colour == (3 * shape + 1) % SCENE_COLOURS;
}

static void hsv_to_rgb(double rgb[3], double hue, double sat, double val)
{
    const double offset[3] = {5.0, 3.0, 1.0};
    for (int c = 0; c < 3; c++) {
        double k = fmod(offset[c] + hue / 60.0 + 6.0, 6.0);
        double ramp = fmin(fmin(k, 4.0 - k), 1.0);
        rgb[c] = val - val * sat * fmax(ramp, 0.0);
    }
}

static void choose_paint(scene_object *o, scene_random *r)
{
    const int c = o->colour;
    double hue = paint[c].hue + random_range(r, -paint[c].hue_by, paint[c].hue_by);
    double sat = paint[c].sat + random_range(r, -paint[c].sat_by, paint[c].sat_by);
    double val = paint[c].val + random_range(r, -paint[c].val_by, paint[c].val_by);
    hsv_to_rgb(o->rgb, hue, sat, val);

    // The texture is a darker shade of the body; black has no darker one and takes a lighter.
    bool darkest = val < 0.2;
    hsv_to_rgb(o->rgb_texture, hue, sat, darkest ? val + 0.20 : val * random_range(r, 0.62, 0.74));
}

/* Colour and shape of the object after those already in the scene. */
static void choose_pair(scene_object *o, const pc_scene *s, scene_random *r)
{
    const bool unseen = s->split == SCENE_UNSEEN;
    const bool first_unseen = unseen && s->count == 0;
    do {
        o->colour = random_below(r, SCENE_COLOURS);
        o->shape = random_below(r, SCENE_SHAPES);
        if (s->count > 0) {
            const scene_object *earlier = &s->object[random_below(r, s->count)];
            double u = random_unit(r);
            if (u < 0.34) o->shape = earlier->shape;
            if (u >= 0.26 && u < 0.60) o->colour = earlier->colour;
        }
    } while (first_unseen ? !scene_held_out(o->colour, o->shape)
                          : !unseen && scene_held_out(o->colour, o->shape));
}

static bool place(scene_object *o, const pc_scene *s, scene_random *r)
{
    for (int attempt = 0; attempt < 64; attempt++) {
        bool free_place = true;
        o->x = random_range(r, o->radius, 1.0 - o->radius);
        o->y = random_range(r, o->radius, 1.0 - o->radius);
        for (int i = 0; i < s->count && free_place; i++) {
            const scene_object *other = &s->object[i];
            double apart = hypot(o->x - other->x, o->y - other->y);
            free_place = apart >= 0.78 * (o->radius + other->radius);
        }
        if (free_place) return true;
    }
    return false;
}

void scene_layout(pc_scene *out, uint64_t seed, scene_split split, int64_t index)
{
    static const double share[SCENE_MAX_OBJECTS] = {0.14, 0.24, 0.31, 0.31};
    *out = (pc_scene){.seed = seed, .split = split, .index = index};
    scene_random r = scene_random_at(out, SCENE_FOR_LAYOUT);
    const int wanted = 1 + random_weighted(&r, share, SCENE_MAX_OBJECTS);

    while (out->count < wanted) {
        scene_object o = {0};
        choose_pair(&o, out, &r);
        o.size = random_below(&r, SCENE_SIZES);
        o.texture = random_chance(&r, 0.5) ? SCENE_PLAIN : 1 + random_below(&r, 2);
        o.radius =
            o.size == SCENE_LARGE ? random_range(&r, 0.150, 0.185) : random_range(&r, 0.088, 0.108);
        o.angle = random_range(&r, -0.21, 0.21); // 12 degrees
        choose_paint(&o, &r);
        if (place(&o, out, &r))
            out->object[out->count++] = o;
        else
            out->count = 0; // no room left: lay the scene out again
    }
}
