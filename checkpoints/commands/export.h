/*
 * export.h - one format each, for export.c and quantize.c.
 */
#ifndef PC_CHECKPOINTS_COMMANDS_EXPORT_H
#define PC_CHECKPOINTS_COMMANDS_EXPORT_H

#include "checkpoints/card.h"
#include "checkpoints/verify.h"

typedef struct convert_request {
    const char *path, *format, *out, *dtype, *shard, *verify, *name, *license, *adapter, *base;
    int64_t layout, seed;
    bool tower; // quantize the vision tower too
} convert_request;

// DIR/NAME-TYPE.gguf and, with eyes, DIR/mmproj-NAME-TYPE.gguf; `out` may be the first file itself.
pc_status convert_gguf(pc_supply *o, const convert_request *r, const pc_card *card);
// The adapters that a native checkpoint holds.
pc_status convert_peft(pc_supply *o, const convert_request *r);
// Opens r->path, merges r->adapter, and writes as r->format says.
pc_status convert_run(const convert_request *r);

#endif
