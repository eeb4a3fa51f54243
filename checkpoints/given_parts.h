/*
 * given_parts.h - inside given.c; not for other rooms.
 *
 *   given.c          ids, masks, labels; sequences and rows
 *   given_visual.c   what there is to see, by the kind of eyes
 *   given_grid.c     grids of patches, images and films
 */
#ifndef PC_CHECKPOINTS_GIVEN_PARTS_H
#define PC_CHECKPOINTS_GIVEN_PARTS_H

#include "checkpoints/given.h"

// One tensor of the file, with the slice taken.
typedef struct given_part {
    pc_st_entry e;
    bool there;
    char name[128];
} given_part;

void given_shape(char *buf, size_t size, const pc_st_entry *e); // "(2,3)"
// `prefix``name`, of that rank (and one more with a slice), no dimension 0; absent is no error.
pc_status given_take(given_part *out, const pc_safetensors *file, const char *prefix,
                     const char *name, int rank, int64_t slice);

/*
 * square, two towers   pixel_values (images,3,S,S)
 * tiles                pixel_values (images, most crops,3,S,S), or (crops of all images,3,S,S);
 *                      image_sizes (images,2) heights and widths; batch_num_images (samples)?: images of a sample
 *                      that has several are not cut
 * hybrid               pixel_values (images,3,S,S), high_res_pixel_values (images,3,S2,S2)
 * grid                 pixel_values (patches of all images, numbers of a patch), image_grid_thw (images,3);
 *                      of films pixel_values_videos or video_pixel_values, and video_grid_thw. Both come in the
 *                      order of their places; films without any place are read for their features alone
 */
typedef struct given_visual {
    given_part pixels, high, sizes, numbers;
    given_part films, film_sizes;
} given_visual;

pc_status given_visual_find(given_visual *v, const pc_safetensors *file,
                            const pc_model_config *config, const char *prefix, int64_t slice);
size_t given_visual_bytes(const given_visual *v); // that reading it takes from the arena
// Fills images, pixels and geometry in; grids wait for the ids.
pc_status given_visual_read(pc_given *g, const given_visual *v, const pc_model_config *config);

pc_status given_grid_find(given_visual *v, const pc_safetensors *file, const char *prefix,
                          int64_t slice);
size_t given_grid_bytes(const given_visual *v);
// images, film, geometry, patches and apart, by the places among the N ids.
pc_status given_grid_read(pc_given *g, const given_visual *v, const pc_vlm_config *c,
                          const int32_t *ids, int64_t N);

#endif
