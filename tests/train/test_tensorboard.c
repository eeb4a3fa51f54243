/*
 * test_tensorboard.c - the event file, read back by the format's rules; metrics.jsonl and where it is cut.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/core/file.h"
#include "tests/support/scratch.h"
#include "train/metrics.h"

static int failed;

static void expect(bool ok, const char *what)
{
    printf("%s %s\n", ok ? "ok    " : "FAILED", what);
    failed += !ok;
}

static uint32_t unmask(uint32_t masked)
{
    const uint32_t rot = masked - UINT32_C(0xa282ead8);
    return (rot >> 17) | (rot << 15);
}

static uint64_t varint(const unsigned char **p)
{
    uint64_t x = 0;
    for (int shift = 0;; shift += 7) {
        x |= (uint64_t)(**p & 127u) << shift;
        if (*(*p)++ < 128) return x;
    }
}

// Steps and values of `tag` in a file; records with a wrong checksum end the reading.
static int read_tag(const char *path, const char *tag, int64_t *steps, float *values, int max,
                    bool *started)
{
    char *bytes;
    size_t size, at = 0;
    int n = 0;
    if (pc_file_read(&bytes, &size, path, 1 << 20)) return -1;
    while (at + 16 <= size) {
        uint64_t length;
        uint32_t head, tail;
        memcpy(&length, bytes + at, 8);
        memcpy(&head, bytes + at + 8, 4);
        if (unmask(head) != crc32c(bytes + at, 8) || at + 16 + length > size) break;
        memcpy(&tail, bytes + at + 12 + length, 4);
        if (unmask(tail) != crc32c(bytes + at + 12, (size_t)length)) break;
        const unsigned char *p = (const unsigned char *)bytes + at + 12, *end = p + length;
        int64_t step = 0;
        while (p < end) {
            const uint64_t key = varint(&p);
            if ((key & 7) == 1)
                p += 8;
            else if ((key & 7) == 5)
                p += 4;
            else if (key == (2 << 3))
                step = (int64_t)varint(&p);
            else if ((key & 7) == 2) {
                const uint64_t len = varint(&p);
                if (key >> 3 == 7) *started = true;
                const unsigned char *v = p, *vend = p + len;
                while (key >> 3 == 5 && v < vend) { // Summary: values
                    varint(&v);
                    const uint64_t vlen = varint(&v);
                    const unsigned char *f = v;
                    varint(&f);
                    const uint64_t tlen = varint(&f);
                    if (tlen == strlen(tag) && !memcmp(f, tag, tlen) && n < max) {
                        steps[n] = step;
                        memcpy(&values[n++], f + tlen + 1, 4);
                    }
                    v += vlen;
                }
                p += len;
            } else {
                break;
            }
        }
        at += 16 + (size_t)length;
    }
    expect(at == size, "every record has its checksums");
    free(bytes);
    return n;
}

static step_metrics line(int64_t step)
{
    return (step_metrics){.step = step,
                          .loss = 1.0 / (double)step,
                          .lr = 1e-3,
                          .grad_norm = 2.0,
                          .samples = 4,
                          .tokens = 100,
                          .seconds = 0.5,
                          .flops = 1e6};
}

static int64_t count_lines(const char *path, int64_t *last)
{
    char *text;
    size_t size;
    int64_t n = 0;
    *last = 0;
    if (pc_file_read(&text, &size, path, 1 << 20)) return -1;
    for (char *c = text, *end; (end = strchr(c, '\n')); c = end + 1, n++) {
        json_t *o = json_loadb(c, (size_t)(end - c), 0, NULL);
        if (!o) n = -1000;
        *last = json_integer_value(json_object_get(o, "step"));
        json_decref(o);
    }
    free(text);
    return n;
}

int main(void)
{
    expect(crc32c("123456789", 9) == UINT32_C(0xE3069283), "CRC-32C of the check word");
    const unsigned char zeros[32] = {0};
    expect(crc32c(zeros, 32) == UINT32_C(0x8A9136AA), "CRC-32C of 32 zeros (RFC 3720)");

    const char *folder = scratch_open();
    char path[4200];
    metrics m;
    int64_t steps[64], last;
    float values[64];
    bool started = false;
    validation val = {.loss = 0.25,
                      .answers = 10,
                      .right = 4,
                      .n_types = 1,
                      .types = {{"a \"quoted\" type", 4, 10}}};

    if (metrics_open(&m, folder, 0)) expect(false, pc_error_text());
    for (int64_t s = 1; s <= 20; s++) {
        step_metrics l = line(s);
        if (s == 20) l.val = &val;
        if (metrics_write(&m, &l)) expect(false, pc_error_text());
    }
    metrics_flush(&m);
    snprintf(path, sizeof path, "%s", m.board.path);
    metrics_close(&m);
    expect(read_tag(path, "train/loss", steps, values, 64, &started) == 20, "20 losses");
    expect(steps[19] == 20 && fabsf(values[3] - 0.25f) < 1e-7f && !started, "steps and values");
    expect(read_tag(path, "val/accuracy", steps, values, 64, &started) == 1 && values[0] == 0.4f,
           "a validation");
    expect(count_lines(scratch_path("metrics.jsonl"), &last) == 20 && last == 20, "20 lines");

    // Killed while writing: the last line is half there. Going on after step 12 cuts what follows.
    char *text;
    size_t size;
    if (pc_file_read(&text, &size, scratch_path("metrics.jsonl"), 1 << 20)) return 1;
    scratch_write("metrics.jsonl", text, size - 30);
    free(text);
    if (metrics_open(&m, folder, 12)) expect(false, pc_error_text());
    step_metrics l = line(13);
    metrics_write(&m, &l);
    metrics_flush(&m);
    expect(strcmp(path, m.board.path) != 0, "a resumed run has an event file of its own");
    started = false;
    expect(read_tag(m.board.path, "train/loss", steps, values, 64, &started) == 1 && started,
           "which begins with a session");
    metrics_close(&m);
    expect(count_lines(scratch_path("metrics.jsonl"), &last) == 13 && last == 13,
           "lines beyond the step are cut");
    scratch_close();
    return failed != 0;
}
