/*
 * gradients.h - `percept-train gradients`: the loss and every parameter's gradient for given tensors.
 */
#ifndef PC_TRAIN_GRADIENTS_H
#define PC_TRAIN_GRADIENTS_H

#include "model/core/status.h"

pc_status gradients_main(int argc, char **argv);

#endif
