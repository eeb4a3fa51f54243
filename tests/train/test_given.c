/*
 * test_given.c - `percept-train gradients` and `replay` on a native checkpoint: our own names, nothing for what the
 * loss does not reach, a derivative that is one, and messages for what is wrong. (Against PyTorch: tests/parity.)
 */
#include "checkpoints/safetensors.h"
#include "model/core/file.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static char *message;

// Runs a program in the scratch folder; returns its exit status.
static int run(const char *program, const char *fmt, ...) PC_PRINTF(2, 3);
static int run(const char *program, const char *fmt, ...)
{
    char args[2048], line[8192], full[4096];
    const char *bin = getenv("PERCEPT_BIN");
    size_t size;
    va_list list;

    if (!realpath(bin ? bin : "build/bin", full)) abort();
    va_start(list, fmt);
    vsnprintf(args, sizeof args, fmt, list);
    va_end(list);
    snprintf(line, sizeof line, "cd '%s' && '%s/%s' %s >stdout 2>stderr", scratch_path(""), full,
             program, args);
    const int code = system(line);
    free(message);
    if (pc_file_read(&message, &size, scratch_path("stderr"), 1 << 20)) abort();
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

static pc_safetensors *open_file(const char *name)
{
    pc_safetensors *s;
    if (pc_safetensors_open(&s, scratch_path(name))) abort();
    return s;
}

static void write_inputs(const char *name, const char *prefix, bool labels)
{
    static const int32_t ids[] = {5, 6, 7, 8, 9, 10, 11, 12}, mask[] = {1, 1, 1, 1, 1, 1, 1, 0};
    static const int32_t label[] = {-100, 6, 7, -100, -100, 10, 11, -100};
    pc_st_out list[3];
    const char *const names[] = {"input_ids", "attention_mask", "labels"};
    const int32_t *const data[] = {ids, mask, label};
    for (int i = 0; i < 3; i++) {
        list[i] = (pc_st_out){.dtype = PC_I32, .rank = 2, .dim = {2, 4}, .data = data[i]};
        snprintf(list[i].name, sizeof list[i].name, "%s%s", prefix, names[i]);
    }
    if (pc_safetensors_write(scratch_path(name), list, labels ? 3 : 2, NULL)) abort();
}

static void gradients(void)
{
    write_inputs("in.safetensors", "", true);
    CHECK(run("percept-train", "gradients vlm.h5 --inputs in.safetensors --out g.safetensors") ==
          0);
    pc_safetensors *s = open_file("g.safetensors");
    CHECK(pc_safetensors_find(s, "loss") && pc_safetensors_find(s, "decoder.tokens"));
    for (int64_t i = 0; i < pc_safetensors_count(s); i++) // no image was there
        CHECK(strncmp(pc_safetensors_at(s, i)->name, "vision.", 7) &&
              strncmp(pc_safetensors_at(s, i)->name, "projector.", 10));
    // Rows of tokens that do not occur have no gradient; in a tied table they do. This one is not tied.
    const pc_st_entry *e = pc_safetensors_find(s, "decoder.tokens");
    const float *g = e->data;
    double absent = 0.0, present = 0.0;
    for (int64_t c = 0; c < e->dim[1]; c++) {
        absent += fabs((double)g[40 * e->dim[1] + c]);
        present += fabs((double)g[6 * e->dim[1] + c]);
    }
    CHECK(absent == 0.0 && present > 0.0);
    pc_safetensors_close(s);

    write_inputs("bare.safetensors", "", false);
    CHECK(run("percept-train", "gradients vlm.h5 --inputs bare.safetensors --out x") == 1 &&
          strstr(message, "labels"));
    CHECK(run("percept-train", "gradients clip.h5 --inputs in.safetensors --out x") == 1);
    CHECK(run("percept-train", "gradients vlm.h5 --inputs nowhere --out x") == 1 &&
          strstr(message, "nowhere"));
    CHECK(run("percept-train", "gradients vlm.h5") == 2 && strstr(message, "--inputs"));
    CHECK(!pc_file_exists(scratch_path("x")));
}

static void write_trace(const char *name, const char *trainable, const char *lr)
{
    char text[1024];
    snprintf(
        text, sizeof text,
        "{\"betas\": [0.9, 0.99], \"eps\": 1e-8, \"weight_decay\": 0.1, \"grad_clip_norm\": 1.0, "
        "\"trainable\": [%s], \"no_decay\": [], \"trace\": [{\"micro_batches\": [0], \"lr\": %s}, "
        "{\"micro_batches\": [0, 0], \"lr\": %s}]}",
        trainable, lr, lr);
    scratch_write(name, text, strlen(text));
}

static void replay(void)
{
    write_inputs("mb.safetensors", "mb0.", true);
    write_trace("t.json", "\"decoder.head\", \"decoder.norm_final.weight\"", "0.01");
    const char *const line = "replay vlm.h5 --batches mb.safetensors --out f.safetensors --trace";
    CHECK(run("percept-train", "%s t.json", line) == 0);
    char *said;
    size_t size;
    if (pc_file_read(&said, &size, scratch_path("stdout"), 1 << 20)) abort();
    double first, second;
    CHECK(sscanf(said, "%lf\n%lf", &first, &second) == 2 && second < first);
    free(said);
    pc_safetensors *s = open_file("f.safetensors");
    CHECK(pc_safetensors_count(s) == 2 && pc_safetensors_find(s, "decoder.head"));
    pc_safetensors_close(s);

    write_trace("u.json", "\"decoder.nose\"", "0.01");
    CHECK(run("percept-train", "%s u.json", line) == 1 && strstr(message, "decoder.nose"));
    write_trace("v.json", "\"decoder.head\"", "\"fast\"");
    CHECK(run("percept-train", "%s v.json", line) == 1 && strstr(message, "lr") &&
          strstr(message, "step 0"));
    scratch_write("w.json", "{", 1);
    CHECK(run("percept-train", "%s w.json", line) == 1 && strstr(message, "w.json"));
    CHECK(run("percept-train", "%s nowhere.json", line) == 1 && strstr(message, "nowhere.json"));
}

int main(void)
{
    scratch_open();
    tiny_models("short", 3);
    gradients();
    replay();
    free(message);
    scratch_close();
    return check_report("gradients and replays of given tensors");
}
