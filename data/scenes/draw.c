/*
 * draw.c - the picture of a scene.
 *
 *   background   two colours mixed along a random direction, under 2 to 5 soft blotches of others
 *   objects      large ones first; each pixel's cover is the mean of 4 x 4 tests of its points
 *                against the shape, so edges are antialiased; the texture is looked up per point
 *   light        a slope of brightness over each object
 *   noise        per pixel and channel, one strength to a picture
 *
 * Object coordinates (u,v): the object's radius is 1, v grows downwards, the angle is undone.
 */
#include <string.h>

#include "data/scenes/random.h"

enum { SUB = 4, MAX_BLOTCHES = 5 };

static bool in_star(double u, double v)
{
    // Fold the plane into one of the ten sectors between a tip and a notch, then test one edge.
    const double tip = 1.08, notch = 0.48, fifth = 2.0 * M_PI / 5.0;
    double a = fabs(atan2(u, -v)); // 0 at the upper tip
    a = fmod(a, fifth);
    if (a > 0.5 * fifth) a = fifth - a;
    const double r = hypot(u, v), x = r * cos(a), y = r * sin(a);
    const double nx = notch * cos(0.5 * fifth), ny = notch * sin(0.5 * fifth);
    return (nx - tip) * y - ny * (x - tip) >= 0.0;
}

static bool inside(int shape, double u, double v)
{
    const double r2 = u * u + v * v;
    switch (shape) {
    case 0: return r2 <= 0.90 * 0.90;
    case 1: return fabs(u) <= 0.78 && fabs(v) <= 0.78;
    case 2: return v <= 0.74 && fabs(u) <= 0.56 * (v + 0.98);
    case 3: return fabs(u) / 0.72 + fabs(v) / 1.04 <= 1.0;
    case 4: return in_star(u, v);
    case 5: return (fabs(u) <= 0.30 && fabs(v) <= 0.95) || (fabs(v) <= 0.30 && fabs(u) <= 0.95);
    case 6: return r2 <= 0.95 * 0.95 && r2 >= 0.50 * 0.50;
    default: {
        const double x = 1.22 * u, y = 0.12 - 1.22 * v, b = x * x + y * y - 1.0;
        return b * b * b <= x * x * y * y * y;
    }
    }
}

/* True where the point takes the texture's colour. */
static bool on_texture(int texture, double u, double v)
{
    if (texture == SCENE_STRIPED) return fmod(v + 4.0, 0.62) < 0.29;
    if (texture == SCENE_DOTTED) {
        const double pitch = 0.66;
        double a = fmod(u + 4.0, pitch) - 0.5 * pitch, b = fmod(v + 4.0, pitch) - 0.5 * pitch;
        return a * a + b * b < 0.22 * 0.22;
    }
    return false;
}

static void random_ground(double rgb[3], scene_random *r)
{
    const double mean = random_range(r, 0.34, 0.66), spread = random_range(r, 0.03, 0.13);
    for (int c = 0; c < 3; c++) rgb[c] = mean + random_range(r, -spread, spread);
}

static void draw_background(float *canvas, int size, scene_random *r)
{
    double from[3], to[3], blotch[MAX_BLOTCHES][3], place[MAX_BLOTCHES][3];
    const double direction = random_range(r, 0.0, 2.0 * M_PI);
    const double cx = cos(direction), cy = sin(direction);
    const int blotches = 2 + random_below(r, MAX_BLOTCHES - 1);
    random_ground(from, r);
    random_ground(to, r);
    for (int b = 0; b < blotches; b++) {
        random_ground(blotch[b], r);
        place[b][0] = random_unit(r);
        place[b][1] = random_unit(r);
        place[b][2] = random_range(r, 0.08, 0.30);
    }
    for (int y = 0; y < size; y++) {
        for (int x = 0; x < size; x++) {
            float *pixel = canvas + 3 * ((int64_t)y * size + x);
            const double px = (x + 0.5) / size, py = (y + 0.5) / size;
            const double t = 0.5 + 0.7 * ((px - 0.5) * cx + (py - 0.5) * cy);
            double colour[3];
            for (int c = 0; c < 3; c++) colour[c] = from[c] + t * (to[c] - from[c]);
            for (int b = 0; b < blotches; b++) {
                const double dx = px - place[b][0], dy = py - place[b][1], w = place[b][2];
                const double share = 0.8 * exp(-(dx * dx + dy * dy) / (w * w));
                for (int c = 0; c < 3; c++) colour[c] += share * (blotch[b][c] - colour[c]);
            }
            for (int c = 0; c < 3; c++) pixel[c] = (float)colour[c];
        }
    }
}

static int clamp_pixel(double position, int size)
{
    int p = (int)floor(position);
    return p < 0 ? 0 : p >= size ? size - 1 : p;
}

static void draw_object(float *canvas, int size, const scene_object *o, scene_random *r)
{
    const double reach = 1.1 * o->radius, ca = cos(o->angle), sa = sin(o->angle);
    const double slope_u = random_range(r, -0.10, 0.10), slope_v = random_range(r, -0.10, 0.10);
    const int x0 = clamp_pixel((o->x - reach) * size, size);
    const int x1 = clamp_pixel((o->x + reach) * size, size);
    const int y0 = clamp_pixel((o->y - reach) * size, size);
    const int y1 = clamp_pixel((o->y + reach) * size, size);

    for (int y = y0; y <= y1; y++) {
        for (int x = x0; x <= x1; x++) {
            int body = 0, texture = 0;
            for (int s = 0; s < SUB * SUB; s++) {
                const double px = (x + (s % SUB + 0.5) / SUB) / size - o->x;
                const double py = (y + (s / SUB + 0.5) / SUB) / size - o->y;
                const double u = (ca * px + sa * py) / o->radius;
                const double v = (ca * py - sa * px) / o->radius;
                if (!inside(o->shape, u, v)) continue;
                if (on_texture(o->texture, u, v))
                    texture++;
                else
                    body++;
            }
            if (body + texture == 0) continue;
            const double u = ((x + 0.5) / size - o->x) / o->radius;
            const double v = ((y + 0.5) / size - o->y) / o->radius;
            const double light = 1.0 + slope_u * u + slope_v * v;
            const double ground = 1.0 - (double)(body + texture) / (SUB * SUB);
            float *pixel = canvas + 3 * ((int64_t)y * size + x);
            for (int c = 0; c < 3; c++) {
                const double own = (body * o->rgb[c] + texture * o->rgb_texture[c]) / (SUB * SUB);
                pixel[c] = (float)(ground * (double)pixel[c] + light * own);
            }
        }
    }
}

/* The sum of four uniform bytes: near enough to normal, one random word a value. */
static double soft_noise(scene_random *r)
{
    const uint32_t w = random_word(r);
    const int sum = (int)(w & 255u) + (int)(w >> 8 & 255u) + (int)(w >> 16 & 255u) + (int)(w >> 24);
    return (sum - 510) / 147.8; // unit variance
}

static void finish(uint8_t *rgb, const float *canvas, int size, scene_random *r)
{
    const double strength = random_range(r, 0.008, 0.035);
    for (int64_t i = 0; i < (int64_t)3 * size * size; i++) {
        double value = 255.0 * ((double)canvas[i] + strength * soft_noise(r)) + 0.5;
        rgb[i] = (uint8_t)(value < 0.0 ? 0.0 : value > 255.0 ? 255.0 : value);
    }
}

void scene_draw(uint8_t *rgb, float *canvas, const pc_scene *scene, int size)
{
    scene_random r = scene_random_at(scene, SCENE_FOR_DRAWING);
    draw_background(canvas, size, &r);
    for (int pass = SCENE_LARGE; pass >= SCENE_SMALL; pass--)
        for (int i = 0; i < scene->count; i++)
            if (scene->object[i].size == pass) draw_object(canvas, size, &scene->object[i], &r);
    finish(rgb, canvas, size, &r);
}
