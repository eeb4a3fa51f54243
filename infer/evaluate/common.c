/*
 * common.c - what all suites share: rows of tables, hashes, intervals.
 */
#include "infer/evaluate/suites.h"

#include "data/metrics/classification.h"
#include "model/core/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void suite_close(suite_output *out)
{
    json_decref(out->result);
    json_decref(out->table);
    json_decref(out->cards);
    memset(out, 0, sizeof *out);
}

int64_t suite_pick(int64_t k, int64_t take, int64_t n)
{
    return k * n / take;
}

pc_status suite_row(json_t *table, ...)
{
    json_t *row = json_array();
    va_list args;
    const char *cell;

    va_start(args, table);
    while ((cell = va_arg(args, const char *))) json_array_append_new(row, json_string(cell));
    va_end(args);
    if (json_array_append_new(table, row)) return pc_fail(PC_ERR_MEMORY, "a table");
    return PC_OK;
}

const char *suite_percent(double share)
{
    static char buf[16][24];
    static int next;
    char *b = buf[next++ % 16];
    snprintf(b, sizeof buf[0], "%.1f %%", 100.0 * share);
    return b;
}

pc_status suite_begin(suite_output *out, const char *suite, const suite_input *in)
{
    char hash[65];
    const pc_status st = pc_file_sha256(hash, in->data);

    if (st) return st;
    out->result =
        json_pack("{s:s, s:s, s:s}", "suite", suite, "data", in->data, "data_sha256", hash);
    out->table = json_array();
    out->cards = json_array();
    if (!out->result || !out->table || !out->cards) return pc_fail(PC_ERR_MEMORY, "results");
    return PC_OK;
}

json_t *suite_interval(int64_t k, int64_t n)
{
    double low, high;

    pc_wilson(&low, &high, k, n);
    return json_pack("[f,f]", low, high);
}

// ---- text --------------------------------------------------------------------------------------

// Characters, not bytes: the table may hold any text.
static int width(const char *s)
{
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void table_print(FILE *out, const json_t *table)
{
    enum { COLUMNS = 16 };
    int widest[COLUMNS] = {0};
    size_t r, c;
    json_t *row, *cell;

    json_array_foreach(table, r, row) json_array_foreach(row, c, cell)
    {
        const int w = width(json_string_value(cell));
        if (c < COLUMNS && w > widest[c]) widest[c] = w;
    }
    json_array_foreach(table, r, row)
    {
        json_array_foreach(row, c, cell)
        {
            const char *text = json_string_value(cell);
            const int pad = c < COLUMNS ? widest[c] - width(text) : 0;
            // The first column stands left, numbers stand right.
            if (c == 0)
                fprintf(out, "  %s%*s", text, pad, "");
            else
                fprintf(out, "  %*s%s", pad, "", text);
        }
        fputc('\n', out);
    }
}
