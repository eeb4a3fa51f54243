/*
 * config.h - reading single values of image settings, for config.c and config_hf.c only. Errors name the key.
 */
#ifndef PC_DATA_IMAGES_CONFIG_H
#define PC_DATA_IMAGES_CONFIG_H

#include "data/images/image.h"

#define PC_IMAGE_SIZE_MAX  8192
#define PC_IMAGE_AREA_MAX  ((int64_t)1 << 26) // pixels that one image may become
#define PC_IMAGE_PATCH_MAX 256

pc_status pc_read_whole(int64_t *out, const json_t *v, const char *key, int64_t least,
                        int64_t most);
pc_status pc_read_size(int64_t *out, const json_t *v, const char *key);
pc_status pc_read_three(double out[3], const json_t *v, const char *key);
pc_status pc_read_fill(uint8_t out[3], const json_t *v, const char *key);
// [[height, width], ...]; swapped: [[width, height], ...].
pc_status pc_read_pinpoints(pc_pinpoints *out, const json_t *v, const char *key, bool swapped);
// What holds across keys.
pc_status pc_image_config_validate(const pc_image_config *c);

#endif
