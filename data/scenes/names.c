/*
 * names.c - how sentences name objects: "the star", "the large object", "the small red circle".
 */
#include "data/scenes/language.h"

static bool fits(const scene_object *o, scene_name n)
{
    return (n.size == ANY || n.size == o->size) && (n.colour == ANY || n.colour == o->colour) &&
           (n.shape == ANY || n.shape == o->shape);
}

int scene_count_of(const pc_scene *s, scene_name n)
{
    int count = 0;
    for (int i = 0; i < s->count; i++) count += fits(&s->object[i], n);
    return count;
}

const char *scene_name_text(char out[SCENE_NAME], scene_name n, bool plural)
{
    scene_text t = {out, SCENE_NAME};
    if (n.size != ANY) say(&t, "%s ", scene_size_names[n.size]);
    if (n.colour != ANY) say(&t, "%s ", scene_colour_names[n.colour]);
    say(&t, "%s", n.shape == ANY ? "object" : scene_shape_names[n.shape]);
    if (plural) say(&t, n.shape == SCENE_CROSS ? "es" : "s");
    return out;
}

bool scene_name_alone(scene_name *out, const pc_scene *s, int i, bool with_colour, bool with_shape,
                      scene_random *r)
{
    const scene_object *o = &s->object[i];
    const scene_name tries[] = {
        {ANY, ANY, o->shape},     {ANY, o->colour, ANY},     {ANY, o->colour, o->shape},
        {o->size, ANY, o->shape}, {o->size, o->colour, ANY}, {o->size, o->colour, o->shape},
    };
    const bool fuller = random_chance(r, 0.5) && with_colour && with_shape;
    for (int t = fuller ? 2 : 0; t < 6; t++) {
        if (!with_colour && tries[t].colour != ANY) continue;
        if (!with_shape && tries[t].shape != ANY) continue;
        if (scene_count_of(s, tries[t]) != 1) continue;
        *out = tries[t];
        return true;
    }
    return false;
}
