/*
 * common.h - flags that several commands of percept-convert share.
 */
#ifndef PC_CHECKPOINTS_COMMANDS_COMMON_H
#define PC_CHECKPOINTS_COMMANDS_COMMON_H

#include "checkpoints/verify.h"
#include "model/core/cli.h"

#define CONVERT_VERIFY_HELP                                                                        \
    "how what was written is held against the source: tensors, and logits of random inputs where " \
    "memory allows (auto)"

pc_verify_mode convert_verify_mode(const char *word); // one of pc_verify_modes
// "5GB", "300MB", "1024": bytes. PC_ERR_USAGE names the flag.
pc_status convert_bytes(int64_t *out, const char *text, const char *flag);
void convert_done(const char *path, const pc_verify_report *r); // the last line of a command

#endif
