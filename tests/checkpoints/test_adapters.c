/*
 * test_adapters.c - adapters onto models: a PEFT folder lands on the rows that its own merging changes; the text of a
 * native checkpoint brings back the same places; broken text is refused; targets go by PEFT's rule.
 */
#include "checkpoints/bundle.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MODEL "tests/goldens/llava"

static void must(pc_status st)
{
    if (st) fail_msg("%s", pc_error_text());
}

static void says(pc_status st, const char *words)
{
    if (!st) fail_msg("accepted, where '%s' was expected", words);
    if (!strstr(pc_error_text(), words)) fail_msg("'%s' without '%s'", pc_error_text(), words);
}

static int count_chosen(const pc_module *list, int n)
{
    int chosen = 0;
    for (int i = 0; i < n; i++) chosen += list[i].chosen;
    return chosen;
}

static int chosen_by(pc_module *list, int n, const char *a, const char *b)
{
    const char *const targets[] = {a, b};
    must(pc_modules_choose(list, n, targets, b ? 2 : 1));
    return count_chosen(list, n);
}

static void test_targets(void **state)
{
    (void)state;
    pc_bundle b;
    pc_module *list;
    int n;
    must(pc_bundle_open(&b, MODEL));
    must(pc_modules_list(&list, &n, &b.model, b.family));
    const int text = (int)b.model.config.vlm.decoder.L, eyes = (int)b.model.config.vlm.vision.L;
    assert_int_equal(n, 7 * text + 6 * eyes + 2);
    assert_int_equal(chosen_by(list, n, "all-linear", NULL), n);
    assert_int_equal(chosen_by(list, n, "q_proj", NULL), text + eyes);
    assert_int_equal(chosen_by(list, n, "o_proj", "linear_2"), text + 1);
    assert_int_equal(chosen_by(list, n, "mlp.fc1", NULL), eyes);
    assert_int_equal(chosen_by(list, n, ".*language_model.*\\.(q_proj|down_proj)", NULL), 2 * text);
    const char *const wrong[] = {"proj"}; // the end of a name is no name
    says(pc_modules_choose(list, n, wrong, 1), "'proj'");
    free(list);
    pc_bundle_close(&b);

    // Without a family's names ours stand in, the parts called as published models call them.
    must(pc_bundle_open(&b, MODEL));
    must(pc_modules_list(&list, &n, &b.model, NULL));
    assert_int_equal(n, 7 * text + 6 * eyes + 2);
    assert_int_equal(chosen_by(list, n, "q_proj", "fc2"), text + 2 * eyes);
    assert_int_equal(chosen_by(list, n, "decoder.blocks.0.mlp.up_proj", NULL), 1);
    free(list);
    pc_bundle_close(&b);
}

// Every linear of the model, with numbers.
static void adapt_all(pc_bundle *b, int64_t r)
{
    pc_module *list;
    int n;
    must(pc_bundle_open(b, MODEL));
    must(pc_modules_list(&list, &n, &b->model, b->family));
    pc_adapter_site *sites = calloc((size_t)n, sizeof *sites);
    assert_non_null(sites);
    for (int i = 0; i < n; i++) {
        sites[i] = list[i].site;
        sites[i].r = r;
        sites[i].alpha = 4.0;
        sites[i].scale = 4.0 / (double)r;
    }
    must(pc_model_adapt(&b->model, sites, n, true));
    says(pc_model_adapt(&b->model, sites, n, true), "already");
    pc_params *p = &b->model.params;
    for (int i = b->model.adapters.first; i < p->count; i++) p->list[i].init = PC_INIT_NORMAL;
    for (int i = b->model.adapters.first; i < p->count; i++) p->list[i].init_scale = 0.3;
    pc_params_init_from(p, b->model.adapters.first, 9);
    free(sites);
    free(list);
}

static double distance(const pc_params *a, const pc_params *b, int count)
{
    double diff = 0.0, norm = 0.0;
    for (int i = 0; i < count; i++) {
        const float *x = a->list[i].weight->w.data, *y = b->list[i].weight->w.data;
        for (int64_t k = 0; k < pc_numel(a->list[i].weight->w); k++) {
            diff += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
            norm += (double)y[k] * (double)y[k];
        }
    }
    return sqrt(diff / norm);
}

static void test_folder(void **state)
{
    (void)state;
    pc_bundle a, b;
    adapt_all(&a, 3);
    const pc_adapters *set = &a.model.adapters;
    pc_peft_out *out = calloc((size_t)set->count, sizeof *out);
    assert_non_null(out);
    for (int i = 0; i < set->count; i++)
        out[i] = (pc_peft_out){.ours = set->sites[i].weight,
                               .row = set->sites[i].row,
                               .r = 3,
                               .I = set->list[i].A.w.dim[1],
                               .O = set->sites[i].rows,
                               .A = set->list[i].A.w.data,
                               .B = set->list[i].B.w.data};
    const pc_peft_config config = {.r = 3, .alpha = 4.0};
    must(pc_peft_write(scratch_path("all"), &config, a.family, &a.model.config, -1, out,
                       set->count));
    free(out);

    // Loaded onto the bare model and merged by the layers, or merged by the file's own function: the same weights.
    must(pc_bundle_open(&b, MODEL));
    must(pc_bundle_adapt(&b, scratch_path("all")));
    assert_int_equal(b.model.adapters.count, a.model.adapters.count);
    must(pc_adapters_merge(&b.model.adapters, &b.model.params));
    assert_int_equal(b.model.adapters.count, 0);
    pc_peft p;
    pc_bundle c;
    must(pc_bundle_open(&c, MODEL));
    must(pc_peft_open(&p, scratch_path("all")));
    must(pc_peft_match(&p, c.family, &c.model.config));
    assert_true(distance(&b.model.params, &c.model.params, c.model.params.count) > 0.1);
    for (int i = 0; i < c.model.params.count; i++)
        must(pc_peft_merge(&p, c.model.params.list[i].name, c.model.params.list[i].weight->w));
    assert_int_equal(b.model.params.count, c.model.params.count);
    const double e = distance(&b.model.params, &c.model.params, c.model.params.count);
    if (!(e < 1e-6)) fail_msg("merged two ways: %g", e); // seen 5e-8
    pc_peft_close(&p);
    pc_bundle_close(&a);
    pc_bundle_close(&b);
    pc_bundle_close(&c);
}

static void test_native(void **state)
{
    (void)state;
    pc_bundle a, b;
    adapt_all(&a, 2);
    json_t *json = pc_model_config_to_json(&a.model.config);
    pc_native_text text = {.model = json_dumps(json, 0),
                           .adapters = pc_adapters_text(&a.model.adapters, 0.25)};
    json_decref(json);
    const char *path = scratch_path("adapters.h5");
    must(pc_native_write(path, &a.model.params, false, &text));
    must(pc_bundle_open(&b, path));
    assert_int_equal(b.model.params.count, a.model.params.count);
    assert_true(distance(&b.model.params, &a.model.params, a.model.params.count) == 0.0);
    assert_true(b.adapter_dropout == 0.25);
    for (int i = 0; i < a.model.adapters.count; i++) {
        const pc_adapter_site *x = &a.model.adapters.sites[i], *y = &b.model.adapters.sites[i];
        assert_string_equal(x->module, y->module);
        assert_true(x->row == y->row && x->rows == y->rows && x->r == y->r && x->scale == y->scale);
    }
    // A replica has them too, on the same numbers.
    pc_model replica;
    must(pc_model_replicate(&replica, &b.model));
    assert_int_equal(replica.adapters.count, b.model.adapters.count);
    assert_ptr_equal(replica.adapters.list[3].B.w.data, b.model.adapters.list[3].B.w.data);
    pc_model_close(&replica);
    pc_bundle_close(&b);
    pc_native_text_close(&text);
    pc_bundle_close(&a);
}

#define SITE "{\"module\": \"m\", \"weight\": \"decoder.blocks.0.attn.qkv.weight\", "

static void test_broken_text(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"{", "line 1"},
        {"[]", "adapters"},
        {"{\"dropout\": 0.0, \"list\": 3}", "no list"},
        {"{\"dropout\": 1.5, \"list\": []}", "1.5"},
        {"{\"dropout\": 0.0, \"list\": [7]}", "adapter 0"},
        {"{\"dropout\": 0.0, \"list\": [" SITE "\"row\": 0, \"rows\": 2, \"alpha\": 1.0, "
         "\"scale\": 1.0}]}",
         "not found: r"},
        {"{\"dropout\": 0.0, \"list\": [" SITE "\"row\": 0, \"rows\": 2, \"r\": 100000, "
         "\"alpha\": 1.0, \"scale\": 1.0}]}",
         "rank 100000"},
        {"{\"dropout\": 0.0, \"list\": [" SITE "\"row\": 9223372036854775807, \"rows\": 2, "
         "\"r\": 1, \"alpha\": 1.0, \"scale\": 1.0}]}",
         "rows"},
        {"{\"dropout\": 0.0, \"list\": [{\"module\": \"m\", \"weight\": \"decoder.tokens\", "
         "\"row\": 0, \"rows\": 2, \"r\": 1, \"alpha\": 1.0, \"scale\": 1.0}]}",
         "decoder.tokens"},
        {"{\"dropout\": 0.0, \"list\": [" SITE "\"row\": 0, \"rows\": 2, \"r\": 1, \"alpha\": 1.0, "
         "\"scale\": 1.0}, " SITE "\"row\": 1, \"rows\": 2, \"r\": 1, \"alpha\": 1.0, "
         "\"scale\": 1.0}]}",
         "two adapters on row 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pc_bundle b;
        double dropout;
        must(pc_bundle_open(&b, MODEL));
        says(pc_adapters_from_text(&b.model, &dropout, cases[i].text), cases[i].words);
        pc_bundle_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_native),
        cmocka_unit_test(test_broken_text),
    };
    scratch_open();
    const int failures = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close();
    return failures != 0;
}
