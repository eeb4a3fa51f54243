/*
 * fuzz_config.c - a config.json: read by its family; what is accepted must list parameters and names.
 */
#include "model/families/families.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const pc_family *family = NULL;
    pc_model_config config;
    pc_model model = {0};
    json_t *json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json) return 0;
    if (!pc_family_from_config(&family, &config, json)) {
        for (int v = 0; v < family->variants; v++) {
            pc_aliases a = {0};
            (void)!family->aliases(&a, &config, v);
            pc_aliases_close(&a);
        }
        if (!pc_model_open(&model, &config, PC_F32, false)) pc_model_close(&model);
        json_decref(pc_model_config_to_json(&config));
    }
    json_decref(json);
    return 0;
}
