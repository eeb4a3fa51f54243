/*
 * geometry.h - how one image came and what it becomes.
 */
#ifndef PC_NETWORKS_GEOMETRY_H
#define PC_NETWORKS_GEOMETRY_H

#include <stdint.h>

// Filled in by pc_vlm_measure from what the kind of eyes goes by.
typedef struct pc_image_geometry {
    int64_t crops;         // in `pixels`. Tiles: the whole image first; 1 when it is not cut
    int64_t height, width; // tiles: of the image as it was
    int64_t t, h, w;       // grid: frames, rows and columns of patches, before merging
    int64_t rows;          // rows of features: as many rows of the sequence
} pc_image_geometry;

#endif
