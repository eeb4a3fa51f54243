/*
 * native_import.h - any model as a native checkpoint, a piece at a time.
 *
 * Parameters keep the type they had where all their parts have one (bf16, f16; otherwise f32), so what is exported
 * again is bit for bit what came in.
 */
#ifndef PC_CHECKPOINTS_NATIVE_IMPORT_H
#define PC_CHECKPOINTS_NATIVE_IMPORT_H

#include "checkpoints/verify.h"

pc_status pc_native_import(const char *path, pc_supply *o, pc_verify_mode verify,
                           pc_verify_report *report);

#endif
