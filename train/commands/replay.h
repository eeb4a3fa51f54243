/*
 * replay.h - `percept-train replay`: the exact optimiser steps of a stored trace.
 */
#ifndef PC_TRAIN_REPLAY_H
#define PC_TRAIN_REPLAY_H

#include "model/core/status.h"

pc_status replay_main(int argc, char **argv);

#endif
