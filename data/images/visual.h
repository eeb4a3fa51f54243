/*
 * visual.h - image files into what a model's eyes are given (networks/vlm.h), for every kind of eyes.
 *
 * Training, asking and reports all come through here: what an image becomes, and how many rows it takes, is decided once.
 */
#ifndef PC_DATA_VISUAL_H
#define PC_DATA_VISUAL_H

#include "data/images/prepared.h"
#include "model/core/threads.h"
#include "model/networks/vlm.h"

// That images prepared like this suit these eyes; PC_ERR_INPUT names what differs.
pc_status pc_visual_check(const pc_image_config *image, const pc_vlm_config *model);

// How images are prepared for a new model that says nothing of it: squares padded and scaled as CLIP's, cut by the
// model's resolutions, or patches of its grid.
pc_image_config pc_visual_default(const pc_vlm_config *model);

// Every image becomes the same number of numbers, whatever its size.
bool pc_visual_fixed(const pc_image_config *image);

// What an image of that height and width becomes, among `images` of its sample.
pc_status pc_visual_plan(pc_image_shape *shape, pc_image_geometry *geometry,
                         const pc_image_config *image, const pc_vlm_config *model, int64_t height,
                         int64_t width, int64_t images);
// Numbers that its pixels (or patches) and its large square take.
int64_t pc_visual_numbers(const pc_image_shape *s);
int64_t pc_visual_high(const pc_image_shape *s);
// Decodes and prepares; an image whose size is not the planned one is PC_ERR_FORMAT. `path` "": a picture of the mean
// colour, of the planned size.
pc_status pc_visual_read(float *pixels, float *high, const pc_image_shape *s,
                         const pc_image_config *image, const char *path);
// Pictures of `count` images whose numbers lie one after the other in `pixels` and `high`.
pc_pictures pc_visual_pictures(float *pixels, float *high, const pc_image_shape *shapes,
                               const pc_image_geometry *geometry, int64_t count);

// Images of files, opened whole.
typedef struct pc_visual {
    pc_pictures pictures;
    pc_image_shape *shapes;      // (count)
    pc_image_geometry *geometry; // (count)
    float *pixels, *high;
} pc_visual;

// paths (n), all of samples with `images` images each; a path "" is a picture of the mean colour. Sizes first, which
// is what sequences need; then the pixels, on the pool's threads.
pc_status pc_visual_measure(pc_visual *out, const pc_image_config *image,
                            const pc_vlm_config *model, const char *const *paths, int64_t n,
                            int64_t images);
pc_status pc_visual_load(pc_visual *v, const pc_image_config *image, const char *const *paths,
                         pc_pool *pool);
void pc_visual_close(pc_visual *v); // a zeroed one is fine

#endif
