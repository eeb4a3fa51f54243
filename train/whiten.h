/*
 * whiten.h - a new tower whose first layer sees pixels whitened (Coates, Ng and Lee 2011).
 *
 * Neighbouring pixels nearly agree: of a patch x of n = 3 k k numbers, brightness and a few slopes hold almost all
 * variance, and outputs of random weights are all much the same number. Few images do not teach a tower to look past
 * that. So the random weights G are drawn as they are, their rows brought to length 1, and then put before whitened
 * patches:
 *
 *   S = cov(x) + 0.05 mean_i cov(x)_ii I = L L^T       over patches of the training images
 *   W = G L^-1,   b = -W mean(x)                       so that cov(W x) = G G^T: every direction counts alike
 *
 * A layer without bias keeps W alone. A function of the seed and the training data: resumed runs do not come here.
 */
#ifndef PC_TRAIN_WHITEN_H
#define PC_TRAIN_WHITEN_H

#include "data/datasets/dataset.h"
#include "data/images/image.h"
#include "model/networks/vision.h"

enum {
    WHITEN_LARGEST = 768, // numbers of a patch: the work grows with their cube
    WHITEN_PATCHES = 20000,
    WHITEN_IMAGES = 1000, // at most so many of the training images are looked at
};

// W (O,n) in place and b (O), or NULL, from N patches x (N,n): the formulas above.
pc_status whiten_layer(float *W, float *b, int64_t O, const float *x, int64_t N, int64_t n);

// Changes the tower's stem.0. Images that cannot be read are left out with `skip`, and else are an error.
pc_status whiten_stem(pc_vision *tower, const pc_dataset *data, const pc_image_config *image,
                      bool skip, uint64_t seed);

#endif
