/*
 * test_fp8.c - which matrices are multiplied in eight bits, and how a table of them is looked up. No device is needed: what
 * it computes is tests/cuda/test_fp8.c's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/networks/model.h"
#include "train/fp8.h"

static int failures;

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            failures++;                                                                            \
            printf("FAILED line %d: %s: ", __LINE__, #cond);                                       \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

// Of a small LLaVA with adapters: the four linears of every block, whatever trains; their copies and no more.
static void of_a_model(int64_t F, int per_block)
{
    char text[512];
    snprintf(
        text, sizeof text,
        "{\"kind\": \"vlm\", \"vision\": {\"image_size\": 32, \"patch\": 16, \"C\": 32, \"H\": 2, "
        "\"L\": 3, \"F\": 64}, \"projector\": {\"depth\": 2}, \"decoder\": {\"C\": 48, \"H\": 3, "
        "\"L\": 2, \"F\": %lld, \"V\": 64, \"T\": 64}, \"image_id\": 63}",
        (long long)F);
    json_t *json = json_loads(text, 0, NULL);
    pc_model_config config;
    pc_model m;
    if (!json || pc_model_config_from_json(&config, json) ||
        pc_model_open(&m, &config, PC_F32, true)) {
        printf("FAILED: %s\n", pc_error_text());
        exit(1);
    }
    json_decref(json);
    int taken = 0;
    size_t bytes = 0;
    for (int i = 0; i < m.params.count; i++) {
        const pc_param *q = &m.params.list[i];
        if (!fp8_takes(q)) continue;
        taken++;
        bytes += 2 * (size_t)(q->dim[0] * q->dim[1]);
        CHECK(strstr(q->name, ".blocks.") && strstr(q->name, ".weight"), "%s", q->name);
        CHECK(strncmp(q->name, "projector", 9) != 0, "%s", q->name);
    }
    CHECK(taken == 3 * 4 + 2 * per_block, "%d of F %lld", taken, (long long)F);
    const size_t planned = fp8_bytes(&m.params);
    CHECK(planned >= bytes && planned < bytes + (size_t)taken * 1024, "%zu for %zu", planned,
          bytes);
    pc_param adapter = m.params.list[0];
    for (int i = 0; i < m.params.count; i++)
        if (fp8_takes(&m.params.list[i])) adapter = m.params.list[i];
    adapter.adapter = true;
    CHECK(!fp8_takes(&adapter), "an adapter");
    pc_model_close(&m);
}

static void look_up(void)
{
    static uint16_t all[48 + 3 * 32 * 48 + 96];
    uint16_t *const room = all + 48;
    pc_fp8_matrix list[3];
    const pc_fp8 f = {.list = list, .count = 3};
    int64_t first = -1;
    for (int i = 0; i < 3; i++)
        list[i] = (pc_fp8_matrix){.w = pc_view2(room + i * 32 * 48, PC_BF16, 32, 48)};
    for (int i = 0; i < 3; i++) {
        const pc_tensor w = list[i].w;
        CHECK(pc_fp8_find(&f, w, &first) == &list[i] && first == 0, "matrix %d", i);
        CHECK(pc_fp8_find(&f, pc_rows(w, 16, 32), &first) == &list[i] && first == 16, "rows of %d",
              i);
        CHECK(!pc_fp8_find(&f, pc_rows(w, 8, 32), &first), "rows from 8 on of %d", i);
        CHECK(!pc_fp8_find(&f, pc_view2(w.data, PC_BF16, 48, 32), &first), "another width");
        CHECK(!pc_fp8_find(&f, pc_view2(w.data, PC_F32, 32, 48), &first), "another type");
        CHECK(!pc_fp8_find(&f, pc_view2((uint16_t *)w.data + 8, PC_BF16, 16, 48), &first), "askew");
        CHECK(!pc_fp8_find(&f, pc_view2(w.data, PC_BF16, 64, 48), &first), "more rows than it has");
    }
    CHECK(!pc_fp8_find(&f, pc_view2(room + 3 * 32 * 48, PC_BF16, 2, 48), &first), "behind all");
    CHECK(!pc_fp8_find(&f, pc_view2(all, PC_BF16, 1, 48), &first), "in front of all");
    const pc_fp8 none = {.count = 0};
    CHECK(!pc_fp8_find(&none, list[0].w, &first), "a table of nothing");
}

int main(void)
{
    of_a_model(64, 4);
    of_a_model(72, 3); // gate and up are 144 rows; down is 72 wide
    look_up();
    CHECK(pc_fp8_fits(16, 16, 16) && !pc_fp8_fits(15, 16, 16) && !pc_fp8_fits(16, 24, 16) &&
              !pc_fp8_fits(16, 16, 40),
          "sizes");
    CHECK(pc_fp8_turned(1) == 16 && pc_fp8_turned(16) == 16 && pc_fp8_turned(17) == 32, "turned");
    printf("%s\n", failures ? "FAILED" : "ok");
    return failures > 0;
}
