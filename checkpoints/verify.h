/*
 * verify.h - a conversion checks itself: what was written is opened again and held against where it came from.
 *
 *   tensors  every parameter, piece by piece: no number may differ by more than the written type explains
 *   logits   random ids and pixels (by seed) through both models; memory for one model in f32 is needed
 *
 * Tensors find what was written wrongly; logits find what was described wrongly (a shape, a scaling, an activation).
 */
#ifndef PC_CHECKPOINTS_VERIFY_H
#define PC_CHECKPOINTS_VERIFY_H

#include "checkpoints/supply.h"

typedef enum pc_verify_mode {
    PC_VERIFY_AUTO,    // logits too where they take no more than half of the memory that is free
    PC_VERIFY_LOGITS,  // both, always
    PC_VERIFY_TENSORS, // no logits
    PC_VERIFY_NONE,
} pc_verify_mode;
extern const char *const pc_verify_modes[]; // their names, NULL-terminated, for command lines

// How much may differ. A type's own: pc_verify_type. Exact: all zero but `logits`.
typedef struct pc_verify_limits {
    double number; // |a - b| <= number |a| + least
    double least;
    double
        tensor; // |a - b| / |a| over a whole parameter (Frobenius), for block types; 0: not looked at
    double logits; // the same over all logits
} pc_verify_limits;
pc_verify_limits pc_verify_type(pc_dtype written);

typedef struct pc_verify_report {
    int64_t parameters, exact;   // of them, bit for bit equal
    double worst_tensor, logits; // relative
    char worst_name[PC_NAME_MAX];
    bool ran_logits, random_images;
} pc_verify_report;

// PC_ERR_FORMAT names the first parameter that differs by more than its limit, or says by how much logits do.
pc_status pc_verify(pc_verify_report *out, pc_supply *from, const char *written,
                    const pc_verify_limits *limits, pc_verify_mode mode, uint64_t seed);
// The same against something that is open already.
pc_status pc_verify_against(pc_verify_report *out, pc_supply *from, pc_supply *to,
                            const pc_verify_limits *limits, pc_verify_mode mode, uint64_t seed);
// One line for the log: "214 tensors equal, logits equal".
const char *pc_verify_text(char *buf, size_t size, const pc_verify_report *r);

#endif
