/*
 * pack.h - features of an image's crops packed into rows of a sequence (spec: llava.md 6).
 *
 *   rows of an image   the whole image's side x side features; then the tiles' features side by side, cut to where
 *                      the picture lies, shrunk bilinearly when they are too many, every line of them ended by
 *                      the learned newline. An image that was not cut: its features and one newline
 *
 * What goes where is tiles.h's to say; here rows are moved. Each feature has one place at most, so backward is the same
 * moves the other way, and what was cut off gets zero.
 */
#ifndef PC_NETWORKS_PACK_H
#define PC_NETWORKS_PACK_H

#include "model/networks/vlm.h"

// Packs crops (crops of all images * side^2, C); newline (1,C). The result: (rows of all images, C).
pc_tensor pc_pack_forward(pc_ctx *ctx, pc_pack_kept *kept, const pc_vlm_config *c,
                          pc_tensor newline, pc_tensor crops, const pc_pictures *pictures);
// dcrops overwritten, dnewline accumulated; each may be absent.
void pc_pack_backward(pc_ctx *ctx, pc_tensor dcrops, pc_tensor dnewline, const pc_pack_kept *kept,
                      const pc_vlm_config *c, pc_tensor dy, const pc_pictures *pictures);

// Rows and crops of an image by its height and width; crops 1 in *g keeps it whole. PC_ERR_INPUT without a size.
pc_status pc_pack_measure(pc_image_geometry *g, const pc_vlm_config *c);
int64_t pc_pack_most(const pc_vlm_config *c); // rows that no image exceeds
// Features of an image before and after shrinking, 0 when it is not shrunk: what the buffers have to hold.
void pc_pack_shrunk(int64_t *grid, int64_t *small, const pc_image_geometry *g,
                    const pc_vlm_config *c);

#endif
