/*
 * jinja.h - chat templates as models publish them: the subset of Jinja that docs/templates.md lists, rendered to
 * the byte as transformers does (trim_blocks, lstrip_blocks, a last newline dropped).
 *
 * A template is somebody else's program. It is read once into a tree and run by an evaluator that knows no files
 * and no network, in bounded depth, steps and memory. What lies outside the subset is an error that names the
 * construct and its line.
 *
 * Every byte of the output keeps where it came from: the template, an assistant's content or another's.
 */
#ifndef PC_DATA_JINJA_H
#define PC_DATA_JINJA_H

#include "model/core/status.h"

#include <jansson.h>

#define PC_JINJA_SOURCE_MAX ((size_t)1 << 20)
#define PC_JINJA_OUTPUT_MAX ((size_t)64 << 20)

typedef struct pc_jinja pc_jinja;

// PC_ERR_FORMAT: "line 3: unknown filter 'xmlattr' ...". The source is copied.
pc_status pc_jinja_open(pc_jinja **out, const char *source, size_t size);
void pc_jinja_close(pc_jinja *t);

// Whether some string constant of the template is exactly this: how it can be told that contents are lists.
bool pc_jinja_has_string(const pc_jinja *t, const char *text);

typedef enum pc_origin { PC_FROM_TEMPLATE, PC_FROM_ASSISTANT, PC_FROM_OTHERS } pc_origin;

typedef struct pc_jinja_output {
    char *text; // NUL-terminated
    size_t size;
    uint8_t *origin;         // (size) of pc_origin
    size_t (*generation)[2]; // bytes inside {% generation %}
    int64_t generations;
} pc_jinja_output;
void pc_jinja_output_close(pc_jinja_output *o);

/*
 * variables: an object, e.g. {"messages": [..], "add_generation_prompt": true, "bos_token": "<s>"}. Only what
 * stands in "messages" has an origin other than the template's. PC_ERR_INPUT: the template's own raise_exception, or
 * what Jinja would raise, with the line.
 */
pc_status pc_jinja_render(const pc_jinja *t, pc_jinja_output *out, const json_t *variables);

#endif
