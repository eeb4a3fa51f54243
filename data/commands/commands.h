/*
 * commands.h - the commands of percept-data, one file each.
 */
#ifndef PC_DATA_COMMANDS_H
#define PC_DATA_COMMANDS_H

#include "checkpoints/bundle.h"
#include "model/core/cli.h"

#include <stdio.h>

pc_status data_scenes(int argc, char **argv);
pc_status data_check(int argc, char **argv);
pc_status data_tokenizer_train(int argc, char **argv);
pc_status data_tokenize(int argc, char **argv);
pc_status data_render(int argc, char **argv);
pc_status data_preprocess(int argc, char **argv);

// MODEL_OR_TOKENIZER: any file of a tokenizer or a folder with one (pc_tokenizer_open), a GGUF, a native checkpoint.
// Close the tokenizer.
pc_status data_open_tokenizer(pc_tokenizer **out, const char *path);

// Lines of a file, or of standard input for NULL or "-". *line lasts until the next call; NULL at the end.
typedef struct data_lines {
    FILE *in;
    const char *name; // for messages
    char *text;
    size_t room, size; // `size` bytes of the present line, without its end
    int64_t number;    // from 1
} data_lines;
pc_status data_lines_open(data_lines *l, const char *path);
pc_status data_lines_next(data_lines *l, char **line);
void data_lines_close(data_lines *l);

// One JSON value on a line of standard output.
pc_status data_print_json(const json_t *value);
// Standard output was written to the end.
pc_status data_flush(void);

#endif
