/*
 * support.c - what several commands of percept-data share.
 */
#include "data/commands/commands.h"
#include "checkpoints/gguf_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool ends_in(const char *text, const char *end)
{
    const size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

/* A file of vocabularies alone is enough: no tensor is asked for. */
static pc_status open_gguf(pc_tokenizer **out, const char *path)
{
    pc_gguf *g = NULL;
    pc_status st = pc_gguf_open(&g, path);
    if (!st) st = pc_gguf_tokenizer(out, g); // names the file
    pc_gguf_close(g);
    return st || *out ? st : pc_fail(PC_ERR_INPUT, "'%s' holds no tokenizer", path);
}

static bool is_native(const char *path)
{
    static const unsigned char magic[4] = {0x89, 'H', 'D', 'F'};
    unsigned char begin[sizeof magic] = {0};
    FILE *f = fopen(path, "rb");
    const bool is = f && fread(begin, 1, sizeof begin, f) == sizeof begin &&
                    memcmp(begin, magic, sizeof magic) == 0;
    if (f) fclose(f);
    return is || ends_in(path, ".h5");
}

pc_status data_open_tokenizer(pc_tokenizer **out, const char *path)
{
    *out = NULL;
    if (ends_in(path, ".gguf")) return open_gguf(out, path);
    if (!is_native(path)) return pc_tokenizer_open(out, path);
    pc_bundle b;
    pc_status st = pc_bundle_open_light(&b, path);
    if (st) return st;
    *out = b.tokenizer;
    b.tokenizer = NULL; // the caller's from here
    pc_bundle_close(&b);
    return *out ? PC_OK : pc_fail(PC_ERR_INPUT, "'%s' holds no tokenizer", path);
}

pc_status data_lines_open(data_lines *l, const char *path)
{
    const bool standard = !path || strcmp(path, "-") == 0;
    *l = (data_lines){.in = standard ? stdin : fopen(path, "rb"),
                      .name = standard ? "standard input" : path};
    return l->in ? PC_OK : pc_fail_errno("'%s' cannot be opened", path);
}

pc_status data_lines_next(data_lines *l, char **line)
{
    *line = NULL;
    errno = 0;
    const ssize_t n = getline(&l->text, &l->room, l->in);
    if (n < 0 && (ferror(l->in) || errno == ENOMEM))
        return pc_fail_errno("%s cannot be read", l->name);
    if (n < 0) return PC_OK;
    l->number++;
    l->size = (size_t)n;
    if (l->size && l->text[l->size - 1] == '\n') l->text[--l->size] = '\0';
    if (l->size && l->text[l->size - 1] == '\r') l->text[--l->size] = '\0';
    *line = l->text;
    return PC_OK;
}

void data_lines_close(data_lines *l)
{
    if (l->in && l->in != stdin) fclose(l->in);
    free(l->text);
    *l = (data_lines){0};
}

pc_status data_print_json(const json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (!text) return pc_fail(PC_ERR_MEMORY, "a line of output");
    puts(text);
    free(text);
    return PC_OK;
}

pc_status data_flush(void)
{
    return fflush(stdout) || ferror(stdout) ? pc_fail_errno("standard output") : PC_OK;
}
