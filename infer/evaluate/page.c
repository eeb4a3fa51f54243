/*
 * page.c - results on one self-contained page: tables, and images with what was said of them. No script, nothing
 * fetched; colours follow the reader's light or dark setting.
 */
#include "infer/evaluate/suites.h"

#include "data/images/picture.h"
#include "model/core/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PICTURE_SIDE = 192 };

static const char head_text[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">"
    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
    "<title>percept eval</title><style>"
    ":root{color-scheme:light dark;--line:#8884;--good:#2a7d4f;--bad:#b5403a}"
    "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2.2rem}"
    "table{border-collapse:collapse;margin:.6rem 0}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
    ".scroll{overflow-x:auto}.quiet{opacity:.75;font-size:.87rem;overflow-wrap:anywhere}"
    ".grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:.8rem;margin:"
    "1rem 0}"
    ".card{border:1px solid var(--line);border-left:4px solid "
    "var(--line);border-radius:4px;padding:.6rem;"
    "overflow-wrap:anywhere}"
    ".card.right{border-left-color:var(--good)}.card.wrong{border-left-color:var(--bad)}"
    ".card img{display:block;width:100%;image-rendering:auto;margin-bottom:.4rem}"
    ".card dl{margin:0;display:grid;grid-template-columns:auto 1fr;gap:.1rem .6rem}"
    ".card dt{opacity:.65}.card dd{margin:0}"
    ".verdict{font-size:.8rem;opacity:.8}"
    "</style>";

static void write_table(FILE *f, const json_t *table)
{
    size_t r, c;
    json_t *row, *cell;

    fputs("<div class=\"scroll\"><table>", f);
    json_array_foreach(table, r, row)
    {
        fputs("<tr>", f);
        json_array_foreach(row, c, cell)
        {
            fputs(r ? "<td>" : "<th>", f);
            pc_html_text(f, json_string_value(cell));
            fputs(r ? "</td>" : "</th>", f);
        }
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

static pc_status write_card(FILE *f, const json_t *card)
{
    const char *image = json_string_value(json_object_get(card, "image"));
    const json_t *right = json_object_get(card, "right");
    size_t i;
    json_t *line;
    pc_status st = PC_OK;

    fprintf(f, "<div class=\"card %s\">", json_is_true(right) ? "right" : "wrong");
    if (image) st = pc_picture_html(f, image, PICTURE_SIDE, true);
    fputs("<dl>", f);
    json_array_foreach(json_object_get(card, "lines"), i, line)
    {
        fputs("<dt>", f);
        pc_html_text(f, json_string_value(json_array_get(line, 0)));
        fputs("</dt><dd>", f);
        pc_html_text(f, json_string_value(json_array_get(line, 1)));
        fputs("</dd>", f);
    }
    fprintf(f, "</dl><div class=\"verdict\">%s</div></div>",
            json_is_true(right) ? "right" : "wrong");
    return st;
}

// What the numbers were made under: the result without its figures.
static void write_conditions(FILE *f, const json_t *result)
{
    static const char *const keys[] = {"data",     "data_sha256", "prompt",    "decoding", "parser",
                                       "unparsed", "ties",        "templates", "seconds"};
    fputs("<p class=\"quiet\">", f);
    bool first = true;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *v = json_object_get(result, keys[i]);
        if (!v) continue;
        char *text = json_is_string(v)
                         ? NULL
                         : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(4));
        fprintf(f, "%s%s: ", first ? "" : " · ", keys[i]);
        pc_html_text(f, json_is_string(v) ? json_string_value(v) : text ? text : "");
        free(text);
        first = false;
    }
    fputs("</p>", f);
}

static pc_status write_body(FILE *f, const json_t *head, const suite_output *suites, int n)
{
    pc_status st = PC_OK;

    fputs(head_text, f);
    fputs("<h1>percept eval</h1><p class=\"quiet\">model: ", f);
    pc_html_text(f, json_string_value(json_object_get(head, "model")));
    fprintf(f, " · percept %s</p>", json_string_value(json_object_get(head, "version")));
    for (int i = 0; i < n && !st; i++) {
        size_t k;
        json_t *card;
        fputs("<h2>", f);
        pc_html_text(f, json_string_value(json_object_get(suites[i].result, "suite")));
        fputs("</h2>", f);
        write_table(f, suites[i].table);
        write_conditions(f, suites[i].result);
        fputs("<div class=\"grid\">", f);
        json_array_foreach(suites[i].cards, k, card) if (!st) st = write_card(f, card);
        fputs("</div>", f);
    }
    fputs("</html>\n", f);
    return st;
}

pc_status page_write(const char *path, const json_t *head, const suite_output *suites, int n)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    if (!f) return pc_fail(PC_ERR_MEMORY, "page '%s'", path);
    pc_status st = write_body(f, head, suites, n);
    if (fclose(f) && !st) st = pc_fail(PC_ERR_MEMORY, "page '%s'", path);
    if (!st) st = pc_file_write(path, text, size);
    free(text);
    return st;
}
