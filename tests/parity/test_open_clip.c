/*
 * test_open_clip.c - the CLIP of tests/goldens under open_clip's names and config: the same outputs, and gradients that
 * are those of the other layout, projections turned round. The names are written out here, not taken from the family.
 *
 * Seen (relative): outputs 7e-7, gradients 2e-6.
 */
#include "tests/support/parity.h"
#include "tests/support/scratch.h"

#include "checkpoints/bundle.h"
#include "model/core/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *ours, *theirs;
} names[] = {
    {"logit_scale", "logit_scale"},
    {"vision.stem.0.weight", "visual.conv1.weight"},
    {"vision.class_token", "visual.class_embedding"},
    {"vision.positions", "visual.positional_embedding"},
    {"vision.norm_pre.", "visual.ln_pre."},
    {"vision.norm_post.", "visual.ln_post."},
    {"vision.proj.weight", "visual.proj"},
    {"vision.blocks.", "visual.transformer.resblocks."},
    {"text.tokens", "token_embedding.weight"},
    {"text.positions", "positional_embedding"},
    {"text.norm_final.", "ln_final."},
    {"text.proj.weight", "text_projection"},
    {"text.blocks.", "transformer.resblocks."},
};
static const char *const in_block[][2] = {
    {"attn.qkv.weight", "attn.in_proj_weight"},
    {"attn.qkv.bias", "attn.in_proj_bias"},
    {"attn.out.", "attn.out_proj."},
    {"norm1.", "ln_1."},
    {"norm2.", "ln_2."},
    {"mlp.fc1.", "mlp.c_fc."},
    {"mlp.fc2.", "mlp.c_proj."},
};

static bool begins(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

static void rename_to(char *out, size_t size, const char *ours)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t n = strlen(names[i].ours);
        if (!begins(ours, names[i].ours) || (names[i].ours[n - 1] != '.' && ours[n])) continue;
        const char *rest = ours + n;
        if (!strstr(names[i].ours, "blocks.")) {
            snprintf(out, size, "%s%s", names[i].theirs, rest);
            return;
        }
        const char *part = strchr(rest, '.') + 1;
        for (size_t k = 0; k < sizeof in_block / sizeof *in_block; k++)
            if (begins(part, in_block[k][0])) {
                snprintf(out, size, "%s%.*s%s%s", names[i].theirs, (int)(part - rest), rest,
                         in_block[k][1], part + strlen(in_block[k][0]));
                return;
            }
    }
    printf("no name for %s\n", ours);
    abort();
}

static bool turned(const char *theirs)
{
    return !strcmp(theirs, "visual.proj") || !strcmp(theirs, "text_projection");
}

static float *turn(const float *x, int64_t rows, int64_t columns)
{
    float *y = malloc((size_t)(rows * columns) * sizeof *y);
    if (!y) abort();
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) y[c * rows + r] = x[r * columns + c];
    return y;
}

static const char *act_name(pc_act act)
{
    return act == PC_ACT_QUICK ? "true" : "false";
}

static void write_config(const pc_clip_config *c)
{
    const pc_vision_config *v = &c->vision;
    const pc_text_config *t = &c->text;
    char text[2048];
    const int n = snprintf(
        text, sizeof text,
        "{\"model_cfg\": {\"embed_dim\": %lld, \"quick_gelu\": %s, \"vision_cfg\": "
        "{\"image_size\": "
        "[%lld, %lld], \"layers\": %lld, \"width\": %lld, \"head_width\": %lld, \"patch_size\": "
        "%lld, "
        "\"mlp_ratio\": %.17g}, \"text_cfg\": {\"context_length\": %lld, \"vocab_size\": %lld, "
        "\"width\": %lld, \"heads\": %lld, \"layers\": %lld, \"mlp_ratio\": %.17g}}, "
        "\"preprocess_cfg\": {\"mean\": [0.5, 0.4, 0.3], \"std\": [0.2, 0.2, 0.2], "
        "\"interpolation\": \"bicubic\", \"resize_mode\": \"squash\"}}",
        (long long)v->E, act_name(v->act), (long long)v->image_size, (long long)v->image_size,
        (long long)v->L, (long long)v->C, (long long)(v->C / v->H), (long long)v->patch,
        (double)v->F / (double)v->C, (long long)t->T, (long long)t->V, (long long)t->C,
        (long long)t->H, (long long)t->L, (double)t->F / (double)t->C);
    scratch_write("open/open_clip_config.json", text, (size_t)n);
}

static void write_folder(const char *dir, const char *prefix)
{
    pc_bundle b;
    if (pc_bundle_open(&b, dir) || b.model.config.kind != PC_MODEL_CLIP) abort();
    const pc_params *p = &b.model.params;
    pc_st_out *list = calloc((size_t)p->count, sizeof *list);
    for (int i = 0; i < p->count && list; i++) {
        const pc_tensor w = p->list[i].weight->w;
        char theirs[160];
        rename_to(theirs, sizeof theirs, p->list[i].name);
        list[i] = (pc_st_out){.dtype = PC_F32, .rank = w.rank, .data = w.data};
        snprintf(list[i].name, sizeof list[i].name, "%s%s", prefix, theirs);
        for (int k = 0; k < w.rank; k++) list[i].dim[k] = w.dim[k];
        const pc_vision_config *v = &b.model.config.clip.vision;
        if (!strcmp(theirs, "visual.conv1.weight")) {
            const int64_t dim[4] = {v->C, 3, v->patch, v->patch};
            list[i].rank = 4;
            memcpy(list[i].dim, dim, sizeof dim);
        } else if (!strcmp(theirs, "visual.class_embedding")) {
            list[i].rank = 1;
            list[i].dim[0] = v->C;
        } else if (!strcmp(theirs, "logit_scale")) {
            list[i].rank = 0;
        } else if (turned(theirs)) {
            list[i].data = turn(w.data, w.dim[0], w.dim[1]);
            list[i].dim[0] = w.dim[1];
            list[i].dim[1] = w.dim[0];
        }
    }
    if (pc_make_dirs(scratch_path("open"))) abort();
    write_config(&b.model.config.clip);
    if (!list || pc_safetensors_write(scratch_path("open/open_clip_model.safetensors"), list,
                                      p->count, NULL))
        abort();
    for (int i = 0; i < p->count; i++)
        if (turned(list[i].name + strlen(prefix))) free((void *)(uintptr_t)list[i].data);
    free(list);
    pc_bundle_close(&b);
}

static const float *find(const pc_safetensors *s, const char *name, const pc_st_entry **e)
{
    *e = pc_safetensors_find(s, name);
    if (!*e) {
        printf("no tensor %s\n", name);
        abort();
    }
    return (*e)->data;
}

// Both projections' gradients under their own names, turned back, against the other layout's.
static void projections(const char *dir)
{
    static const char *const pairs[2][2] = {{"visual.proj", "visual_projection.weight"},
                                            {"text_projection", "text_projection.weight"}};
    const char *bin = getenv("PERCEPT_BIN");
    char line[4096], path[1024];
    pc_safetensors *got = NULL, *want = NULL;

    snprintf(line, sizeof line,
             "%s/percept-train gradients '%s' --inputs '%s/inputs.safetensors' --out '%s' >%s",
             bin ? bin : "build/bin", scratch_path("open"), dir, scratch_path("g.safetensors"),
             scratch_path("said"));
    snprintf(path, sizeof path, "%s/grads.safetensors", dir);
    if (system(line) || pc_safetensors_open(&got, scratch_path("g.safetensors")) ||
        pc_safetensors_open(&want, path)) {
        parity_broken("gradients");
        return;
    }
    for (int i = 0; i < 2; i++) {
        const pc_st_entry *a, *b;
        const float *x = find(got, pairs[i][0], &a), *y = find(want, pairs[i][1], &b);
        const bool shapes = a->rank == 2 && a->dim[0] == b->dim[1] && a->dim[1] == b->dim[0];
        float *back = turn(x, a->dim[0], a->dim[1]);
        parity_report(pairs[i][0], shapes ? parity_error(back, y, b->dim[0] * b->dim[1]) : 1e9,
                      PARITY_GRAD, "");
        free(back);
    }
    pc_safetensors_close(got);
    pc_safetensors_close(want);
}

int main(void)
{
    scratch_open();
    const char *dir = parity_own("clip");
    write_folder(dir, "module.");
    parity_logits(dir, scratch_path("open"), false);
    write_folder(dir, "");
    parity_logits(dir, scratch_path("open"), true);
    projections(dir);
    scratch_close();
    return parity_failed() != 0;
}
