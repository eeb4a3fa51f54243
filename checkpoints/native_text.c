/*
 * native_text.c - the texts and the carried files of a checkpoint, in memory (native.h).
 */
#include "checkpoints/native_h5.h"

#include <stdlib.h>
#include <string.h>

const char *const pc_native_text_names[PC_NATIVE_TEXTS] = {"model",    "image",   "tokenizer",
                                                           "template", "recipe",  "state",
                                                           "source",   "adapters"};

char **pc_native_text_slot(pc_native_text *t, int i)
{
    char **const slots[PC_NATIVE_TEXTS] = {&t->model,  &t->image, &t->tokenizer, &t->template_name,
                                           &t->recipe, &t->state, &t->source,    &t->adapters};
    return slots[i];
}

void pc_native_text_close(pc_native_text *t)
{
    for (int i = 0; i < PC_NATIVE_TEXTS; i++) free(*pc_native_text_slot(t, i));
    for (int i = 0; i < t->file_count; i++) {
        free(t->files[i].name);
        free(t->files[i].data);
    }
    free(t->files);
    *t = (pc_native_text){0};
}

bool pc_native_file_name(const char *name)
{
    const size_t n = strlen(name);
    if (n == 0 || n > 200 || name[0] == '.') return false;
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 32) return false;
    return true;
}

const pc_native_file *pc_native_find_file(const pc_native_text *t, const char *name)
{
    for (int i = 0; i < t->file_count; i++)
        if (!strcmp(t->files[i].name, name)) return &t->files[i];
    return NULL;
}

pc_status pc_native_add_file(pc_native_text *t, const char *name, const void *data, size_t size)
{
    if (!pc_native_file_name(name) || t->file_count >= PC_NATIVE_FILES_MAX)
        return pc_fail(PC_ERR_INPUT, "file '%.200s': not a plain name, or one of more than %d",
                       name, PC_NATIVE_FILES_MAX);
    pc_native_file *files = realloc(t->files, (size_t)(t->file_count + 1) * sizeof *files);
    if (files) t->files = files;
    char *copy = strdup(name);
    unsigned char *bytes = malloc(size + 1);
    if (!files || !copy || !bytes) {
        free(copy);
        free(bytes);
        return pc_fail(PC_ERR_MEMORY, "file '%s': %zu bytes", name, size);
    }
    if (size) memcpy(bytes, data, size);
    bytes[size] = '\0'; // so that text may be read as text
    t->files[t->file_count++] = (pc_native_file){copy, bytes, size};
    return PC_OK;
}

static bool is_tokenizer_file(const char *name)
{
    static const char *const names[] = {
        "tokenizer",    "special_tokens_map.json", "added_tokens.json", "vocab.", "merges.txt",
        "spiece.model", "chat_template.",          "tokenization_",     NULL};
    const size_t n = strlen(name);
    for (const char *const *s = names; *s; s++)
        if (!strncmp(name, *s, strlen(*s))) return true;
    return n > 9 && !strcmp(name + n - 9, ".tiktoken");
}

void pc_native_drop_tokenizer(pc_native_text *t)
{
    int kept = 0;
    for (int i = 0; i < t->file_count; i++) {
        if (!is_tokenizer_file(t->files[i].name)) {
            t->files[kept++] = t->files[i];
            continue;
        }
        free(t->files[i].name);
        free(t->files[i].data);
    }
    t->file_count = kept;
}
