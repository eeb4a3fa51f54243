/*
 * test_no_memory.c - the n-th allocation fails, for every n: each call returns PC_ERR_MEMORY, leaves nothing
 * behind, and works when asked again.
 */
#include "tests/support/failing_malloc.h"

#include <string.h>

#include "model/core/file.h"
#include "model/layers/taps.h"
#include "model/networks/generate.h"
#include "model/networks/model.h"
#include "tests/support/check.h"

static pc_model_config config;

typedef pc_status trial(void);

static pc_status open_model(void)
{
    pc_model m, replica;
    pc_status st = pc_model_open(&m, &config, PC_F32, true);
    if (st) return st;
    st = pc_model_replicate(&replica, &m);
    if (!st) pc_model_close(&replica);
    pc_model_close(&m);
    return st;
}

static pc_status write_description(void)
{
    json_t *json = pc_model_config_to_json(&config);
    if (!json) return PC_ERR_MEMORY;
    json_decref(json);
    return PC_OK;
}

static pc_status read_file(void)
{
    char *data;
    size_t size;
    const pc_status st = pc_file_read(&data, &size, "/proc/self/status", (size_t)1 << 20);
    free(data);
    return st;
}

static pc_model model;
static pc_runner runner;

static pc_status generate(void)
{
    static const int32_t ids[] = {1, 2, 3};
    const pc_sequence seqs[] = {{.ids = ids, .length = 3}, {.ids = ids, .length = 2}};
    const pc_generate_options o = {.max_tokens = 3};
    pc_generation out[2];
    const pc_status st = pc_generate(out, &runner, &model.vlm, seqs, 2, NULL, &o);
    CHECK(st || (out[0].length == 3 && out[1].length == 3));
    CHECK(!st || (!out[0].ids && !out[1].ids));
    pc_generation_close(out, 2);
    return st;
}

static pc_status tap(void)
{
    pc_arena act;
    pc_taps taps = {0};
    if (pc_arena_open(&act, "act", 4096)) return PC_ERR_IO;
    pc_ctx ctx = {.act = &act, .taps = &taps};
    const pc_tensor x = pc_alloc2(&act, PC_F32, 3, 4);
    memset(x.data, 0, 48);
    for (int i = 0; i < 70; i++) pc_tap_add(&ctx, x, "x.%d", i);
    const pc_status st = taps.status;
    CHECK(st || (taps.count == 70 && pc_tap_find(&taps, "x.69")));
    pc_taps_close(&taps);
    pc_arena_close(&act);
    return st;
}

static void every_allocation(const char *what, trial *f)
{
    long n = 0;
    CHECK(!f()); // what is allocated once and for all is so now
    for (;;) {
        const long before = atomic_load(&failing_alive);
        failing_in = ++n;
        failed_once = 0;
        const pc_status st = f();
        failing_in = 0;
        if (!failed_once) {
            CHECK(!st);
            break;
        }
        CHECK(st == PC_ERR_MEMORY);
        if (st != PC_ERR_MEMORY) printf("   %s, allocation %ld: status %d\n", what, n, (int)st);
        CHECK(atomic_load(&failing_alive) == before);
        CHECK(!f());
        CHECK(atomic_load(&failing_alive) == before);
    }
    printf("ok     %s: each of %ld allocations failed\n", what, n - 1);
    CHECK(n > 1);
}

int main(void)
{
    if (!failing_works()) {
        printf("ok     skipped: allocations cannot be made to fail here\n");
        return 0;
    }
    json_t *json = json_loads("{\"kind\":\"vlm\",\"vision\":{\"L\":1,\"C\":8,\"H\":2,"
                              "\"image_size\":8,\"patch\":4},\"decoder\":{\"V\":20,\"C\":12,"
                              "\"H\":2,\"L\":2,\"T\":64}}",
                              0, NULL);
    CHECK(json && !pc_model_config_from_json(&config, json));
    json_decref(json);
    CHECK(!pc_model_open(&model, &config, PC_F32, true));
    CHECK(!pc_runner_open(&runner, 1, NULL));
    pc_params_init(&model.params, 1);
    every_allocation("a model and its replica", open_model);
    every_allocation("a description", write_description);
    every_allocation("a file", read_file);
    every_allocation("generation", generate);
    every_allocation("taps", tap);
    pc_runner_close(&runner);
    pc_model_close(&model);
    return check_report("allocations that fail");
}
