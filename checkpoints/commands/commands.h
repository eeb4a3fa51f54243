/*
 * commands.h - the commands of percept-convert, one file each.
 */
#ifndef PC_CHECKPOINTS_COMMANDS_H
#define PC_CHECKPOINTS_COMMANDS_H

#include "model/core/status.h"

pc_status convert_inspect(int argc, char **argv);
pc_status convert_import(int argc, char **argv);
pc_status convert_export(int argc, char **argv);
pc_status convert_merge(int argc, char **argv);
pc_status convert_quantize(int argc, char **argv);

#endif
