/*
 * step.h - what the optimiser's operations on lists (ops.h) share on every backend.
 *
 * Rounding at random: a number between two neighbours of bf16 becomes the upper one with a probability of its
 * distance from the lower one, so that what is smaller than half a step of the format is kept on average. 16 random
 * bits are added below the mantissa that stays, and what is below is cut. They are a function of the key (seed, update)
 * and of where the number stands: number i of the list, role k (PC_ROUND_W ...) takes word ((i mod 8)/2 + k) mod 4 of
 * block floor(i/8), its lower half when i is even, its upper half when it is odd. So one block serves eight numbers; what
 * a number's weight and moments are rounded by are different words, independent of each other.
 */
#ifndef PC_OPS_STEP_H
#define PC_OPS_STEP_H

// Muon's polynomial (Jordan et al. 2024): a quintic that brings every singular value near 1 in a few steps.
#define PC_QUINTIC_A 3.4445
#define PC_QUINTIC_B (-4.7750)
#define PC_QUINTIC_C 2.0315
enum { PC_QUINTIC_STEPS = 5 };
#define PC_MUON_TINY 1e-7 // added to |u|_F
#define PC_MUON_SCALE                                                                              \
    0.2 // times sqrt(max(rows, columns)): as large a step as AdamW's (Liu et al. 2025)
#define PC_CLIP_TINY 1e-6 // added to the norm

enum { PC_ROUND_W, PC_ROUND_M, PC_ROUND_V, PC_ROUND_GROUP = 8 };
#define PC_ROUND_WORD(i, role) (((i) / 2 + (role)) % 4) // i: of the group's eight

#endif
