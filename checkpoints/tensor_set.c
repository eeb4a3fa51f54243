/*
 * tensor_set.c - see tensor_set.h; and what every holder of a pc_safetensors may ask of it.
 */
#include "checkpoints/tensor_set.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pc_status map_file(pc_mapping *m, const char *path, size_t least)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return pc_fail_errno("cannot open '%s'", path);
    pc_status st = PC_OK;
    struct stat s;
    if (fstat(fd, &s) != 0)
        st = pc_fail_errno("cannot stat '%s'", path);
    else if (!S_ISREG(s.st_mode))
        st = pc_fail(PC_ERR_INPUT, "'%s' is not a regular file", path);
    else if (s.st_size < (off_t)least)
        st = pc_fail(PC_ERR_FORMAT, "file has %lld bytes, such a file has at least %zu",
                     (long long)s.st_size, least);
    if (!st) {
        void *base = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (base == MAP_FAILED) {
            st = pc_fail_errno("cannot map '%s'", path);
        } else {
            m->base = base;
            m->size = (size_t)s.st_size;
        }
    }
    close(fd);
    return st;
}

pc_status pc_set_map(pc_safetensors *s, pc_mapping **out, const char *path, size_t least)
{
    pc_mapping *files = realloc(s->file, (size_t)(s->files + 1) * sizeof *files);
    if (!files) return pc_fail(PC_ERR_MEMORY, "table of files");
    s->file = files;
    *out = &s->file[s->files++];
    **out = (pc_mapping){0};
    return map_file(*out, path, least ? least : 1);
}

pc_status pc_set_reserve(pc_safetensors *s, size_t more)
{
    const size_t want = (size_t)s->count + more;
    if (want <= (size_t)s->capacity) return PC_OK;
    pc_st_entry *list = realloc(s->list, want * sizeof *list);
    if (!list) return pc_fail(PC_ERR_MEMORY, "table of %zu tensors", want);
    s->list = list;
    s->capacity = (int64_t)want;
    return PC_OK;
}

static pc_status keep_name(pc_safetensors *s, char **out, const char *name, size_t n)
{
    if (s->name_count == s->name_capacity) {
        const int64_t capacity = s->name_capacity ? 2 * s->name_capacity : 64;
        char **names = realloc(s->names, (size_t)capacity * sizeof *names);
        if (!names) return pc_fail(PC_ERR_MEMORY, "table of %lld names", (long long)capacity);
        s->names = names;
        s->name_capacity = capacity;
    }
    *out = strndup(name, n);
    if (!*out) return pc_fail(PC_ERR_MEMORY, "a name of %zu bytes", n);
    s->names[s->name_count++] = *out;
    return PC_OK;
}

pc_status pc_set_add(pc_safetensors *s, const pc_st_entry *e, const char *name, size_t n)
{
    char *copy;
    pc_status st = PC_OK;
    if (s->count == s->capacity) st = pc_set_reserve(s, s->count ? (size_t)s->count : 64);
    if (st || (st = keep_name(s, &copy, name, n))) return st;
    s->list[s->count] = *e;
    s->list[s->count++].name = copy;
    return PC_OK;
}

static int by_name(const void *a, const void *b)
{
    const pc_st_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

pc_status pc_set_sort(pc_safetensors *s)
{
    if (s->count > 1) qsort(s->list, (size_t)s->count, sizeof *s->list, by_name);
    for (int64_t i = 1; i < s->count; i++)
        if (!strcmp(s->list[i - 1].name, s->list[i].name))
            return pc_fail(PC_ERR_FORMAT, "tensor '%.200s' is there twice", s->list[i].name);
    return PC_OK;
}

void pc_safetensors_close(pc_safetensors *s)
{
    if (!s) return;
    for (int i = 0; i < s->files; i++) {
        json_decref(s->file[i].header);
        if (s->file[i].base) munmap(s->file[i].base, s->file[i].size);
    }
    for (int64_t i = 0; i < s->name_count; i++) free(s->names[i]);
    for (int64_t i = 0; i < s->copy_count; i++) free(s->copies[i]);
    free(s->names);
    free(s->copies);
    free(s->file);
    free(s->list);
    free(s);
}

int64_t pc_safetensors_count(const pc_safetensors *s)
{
    return s->count;
}

const pc_st_entry *pc_safetensors_at(const pc_safetensors *s, int64_t i)
{
    PC_ASSERT(i >= 0 && i < s->count, "entry %lld of %lld", (long long)i, (long long)s->count);
    return &s->list[i];
}

const pc_st_entry *pc_safetensors_find(const pc_safetensors *s, const char *name)
{
    const pc_st_entry key = {.name = name};
    if (!s->count) return NULL;
    return bsearch(&key, s->list, (size_t)s->count, sizeof key, by_name);
}
