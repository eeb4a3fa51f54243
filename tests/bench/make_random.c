/*
 * make_random.c - random weights in the exact shapes of a config.json, for measuring real models without having them.
 *
 *   make_random DIR [--dtype bf16|f16|f32] [--shard BYTES] [--seed S]
 *
 * DIR holds a config.json of any family; shards and their index are written beside it, tensor by tensor in pieces, so
 * that memory stays at a few MB. Matrices are uniform with standard deviation 1/sqrt(columns), gains near 1, everything
 * else near 0: activations keep the size that trained ones have. scripts/real_shapes.sh uses it.
 */
#include "checkpoints/hf.h"
#include "checkpoints/numbers.h"
#include "model/core/cli.h"
#include "model/core/file.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct maker {
    pc_st_out *list; // of the shard being written
    uint64_t seed;
    float *room; // one piece, widened
    int64_t room_count;
} maker;

static uint64_t mix(uint64_t x) // splitmix64
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

static uint64_t name_seed(const char *name, uint64_t seed)
{
    for (; *name; name++) seed = mix(seed ^ (unsigned char)*name);
    return seed;
}

// Middle and half width of the tensor's uniform numbers.
static void spread(const pc_st_out *t, float *middle, float *width)
{
    int64_t columns = 1;
    for (int i = 1; i < t->rank; i++) columns *= t->dim[i];
    const size_t n = strlen(t->name);
    const bool gain = t->rank == 1 && n > 7 && !strcmp(t->name + n - 7, ".weight");
    *middle = gain ? 1.0F : 0.0F;
    *width = t->rank > 1 ? sqrtf(3.0F / (float)columns) : 0.03F;
}

static pc_status fill(void *arg, void *buffer, int64_t index, int64_t begin, int64_t count)
{
    maker *m = arg;
    const pc_st_out *t = &m->list[index];
    const uint64_t seed = name_seed(t->name, m->seed);
    float middle, width;
    if (count > m->room_count) {
        free(m->room);
        m->room_count = count;
        if (!(m->room = malloc((size_t)count * sizeof *m->room)))
            return pc_fail(PC_ERR_MEMORY, "a piece of %lld numbers", (long long)count);
    }
    spread(t, &middle, &width);
    // Four numbers of 16 bits from one of 64: as fine as bf16 and f16 can tell.
    for (int64_t i = 0; i < count; i++) {
        const uint64_t at = (uint64_t)(begin + i), word = mix(seed + at / 4);
        const float u = (float)(word >> 16 * (at % 4) & 0xffff) * 0x1p-15F - 1.0F;
        m->room[i] = middle + width * u;
    }
    pc_narrow(buffer, t->dtype, m->room, count);
    return PC_OK;
}

// Their tensors, each once: parts of one that is split have one name.
static pc_status tensors(pc_st_out **out, int64_t *n, const pc_hf_config *c, pc_dtype t)
{
    pc_aliases names = {0};
    pc_status st = c->family->aliases(&names, &c->model, 0);
    *n = 0;
    *out = calloc((size_t)names.count + 1, sizeof **out);
    if (!st && !*out) st = pc_fail(PC_ERR_MEMORY, "%d tensors", names.count);
    for (int i = 0; i < names.count && !st; i++) {
        const pc_alias *a = &names.list[i];
        if (i && !strcmp(names.list[i - 1].theirs, a->theirs)) continue;
        pc_st_out *x = &(*out)[(*n)++];
        *x = (pc_st_out){.dtype = t, .rank = a->rank};
        snprintf(x->name, sizeof x->name, "%s", a->theirs);
        memcpy(x->dim, a->dim, sizeof a->dim);
    }
    pc_aliases_close(&names);
    return st;
}

static size_t bytes_of(const pc_st_out *t)
{
    size_t n = pc_dtype_size(t->dtype);
    for (int i = 0; i < t->rank; i++) n *= (size_t)t->dim[i];
    return n;
}

// The end of the shard that begins at `first`: as many as fit, one at least.
static int64_t shard_end(const pc_st_out *list, int64_t n, int64_t first, size_t most)
{
    size_t used = bytes_of(&list[first]);
    int64_t i = first + 1;
    while (i < n && used + bytes_of(&list[i]) <= most) used += bytes_of(&list[i++]);
    return i;
}

static pc_status write_shards(const char *dir, pc_st_out *list, int64_t n, size_t most,
                              uint64_t seed)
{
    int64_t shards = 0, k = 0;
    size_t total = 0;
    char path[PATH_MAX], name[64];
    pc_status st = PC_OK;
    json_t *map = json_object();
    maker m = {.seed = seed};
    for (int64_t i = 0; i < n; i = shard_end(list, n, i, most)) shards++;
    for (int64_t i = 0, end; i < n && !st; i = end, k++) {
        end = shard_end(list, n, i, most);
        snprintf(name, sizeof name, "model-%05lld-of-%05lld.safetensors", (long long)k + 1,
                 (long long)shards);
        if (shards == 1) snprintf(name, sizeof name, "model.safetensors");
        snprintf(path, sizeof path, "%s/%s", dir, name);
        m.list = list + i;
        st = pc_safetensors_stream(path, list + i, end - i, NULL, fill, &m);
        for (int64_t j = i; j < end; j++) {
            total += bytes_of(&list[j]);
            json_object_set_new(map, list[j].name, json_string(name));
        }
        fprintf(stderr, "%s\n", path);
    }
    free(m.room);
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *text = index ? json_dumps(index, JSON_INDENT(1)) : NULL;
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    if (!st && !text) st = pc_fail(PC_ERR_MEMORY, "index");
    if (!st && shards > 1) st = pc_file_write(path, text, strlen(text));
    if (!st)
        printf("%lld tensors, %lld shards, %zu bytes\n", (long long)n, (long long)shards, total);
    free(text);
    json_decref(index);
    return st;
}

static pc_status make(int argc, char **argv)
{
    const char *dtype = "bf16";
    int64_t shard = 5000000000, seed = 1, n = 0;
    const pc_cli_flag flags[] = {
        {"dtype", PC_CLI_STRING, &dtype, "TYPE", "bf16, f16 or f32", 0, 0, NULL},
        {"shard", PC_CLI_INT, &shard, "BYTES", "of a shard at most", 1, 1e15, NULL},
        {"seed", PC_CLI_INT, &seed, "S", "of the numbers", 0, 0, NULL},
    };
    const pc_cli cli = {.command = "make_random",
                        .usage = "DIR",
                        .about = "Random weights in the shapes of DIR/config.json.",
                        .flags = flags,
                        .flag_count = (int)(sizeof flags / sizeof flags[0]),
                        .min_args = 1,
                        .max_args = 1};
    char **args;
    int count;
    pc_hf_config c = {0};
    pc_st_out *list = NULL;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &count);
    if (st || !args) return st;
    const pc_dtype t = !strcmp(dtype, "bf16")  ? PC_BF16
                       : !strcmp(dtype, "f16") ? PC_F16
                       : !strcmp(dtype, "f32") ? PC_F32
                                               : PC_U8;
    if (t == PC_U8) return pc_fail(PC_ERR_USAGE, "--dtype '%s': expected bf16, f16 or f32", dtype);
    if (!(st = pc_hf_config_open(&c, args[0])) && !(st = tensors(&list, &n, &c, t)))
        st = write_shards(args[0], list, n, (size_t)shard, (uint64_t)seed);
    free(list);
    pc_hf_config_close(&c);
    return st;
}

int main(int argc, char **argv)
{
    if (!make(argc - 1, argv + 1)) return 0;
    fprintf(stderr, "%s\n", pc_error_text());
    return 1;
}
