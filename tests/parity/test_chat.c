/*
 * test_chat.c - chat templates against ../shared/goldens/chat: every published template through every conversation.
 *
 * Text with and without an invitation, byte spans of the answers, errors that templates raise: identical. Ids
 * likewise, of the named tokenizer. What is learned must hold every answer's bytes.
 */
#include "data/text/template.h"
#include "model/core/file.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static json_t *meta, *conversations;

static const char *shared_named(const char *format, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, format, name);
    return shared_path(path);
}

static json_t *load(const char *name)
{
    const char *path = shared_named("goldens/chat/%s", name);
    return path ? json_load_file(path, 0, NULL) : NULL;
}

/* ---- what a row is rendered with ---- */

enum { KEPT = 16 };
static struct {
    char name[64];
    const pc_template *t;
} templates[KEPT];
static struct {
    char name[64];
    pc_tokenizer *t;
} tokenizers[KEPT];

static const pc_template *template_named(const char *name)
{
    int i = 0;
    for (; i < KEPT && templates[i].t; i++)
        if (!strcmp(templates[i].name, name)) return templates[i].t;
    assert_true(i < KEPT);
    snprintf(templates[i].name, sizeof templates[i].name, "%s", name);
    char file[128], *source = NULL;
    size_t size = 0;
    snprintf(file, sizeof file, "goldens/chat/templates/%s.jinja", name);
    if (!shared_path(file)) return templates[i].t = pc_template_find(name); // not Jinja
    const json_t *special = json_object_get(json_object_get(meta, "special_tokens"), name);
    json_t *tokens = json_pack("{s:O*, s:O*}", "bos_token", json_object_get(special, "bos"),
                               "eos_token", json_object_get(special, "eos"));
    pc_template *t = NULL;
    assert_int_equal(pc_file_read(&source, &size, shared_path(file), 1 << 20), PC_OK);
    if (pc_template_open(&t, name, source, size, tokens)) fail_msg("%s", pc_error_text());
    json_decref(tokens);
    free(source);
    return templates[i].t = t;
}

static const pc_tokenizer *tokenizer_named(const char *name)
{
    int i = 0;
    for (; i < KEPT && tokenizers[i].t; i++)
        if (!strcmp(tokenizers[i].name, name)) return tokenizers[i].t;
    assert_true(i < KEPT);
    snprintf(tokenizers[i].name, sizeof tokenizers[i].name, "%s", name);
    if (pc_tokenizer_open(&tokenizers[i].t,
                          shared_named("goldens/tokenizers/%s/tokenizer.json", name)))
        fail_msg("%s", pc_error_text());
    return tokenizers[i].t;
}

static int32_t image_id_of(const pc_tokenizer *t, const char *name)
{
    static const char *const of[][2] = {{"qwen2_vl", "<|image_pad|>"},
                                        {"deepseek_vl", "<image_placeholder>"}};
    for (int i = 0; i < 2; i++)
        if (!strcmp(name, of[i][0])) return pc_tokenizer_id(t, of[i][1]);
    return pc_tokenizer_id(t, "<image>");
}

/* ---- checks ---- */

static void same_ids(const char *where, const pc_rendered *r, const json_t *want)
{
    const int64_t n = r->ids.count - r->framed - r->tail;
    if ((int64_t)json_array_size(want) != n)
        fail_msg("%s: %lld ids, expected %zu", where, (long long)n, json_array_size(want));
    for (int64_t i = 0; i < n; i++)
        if (r->ids.list[r->framed + i] != json_integer_value(json_array_get(want, (size_t)i)))
            fail_msg("%s: id %lld is %d, expected %lld", where, (long long)i,
                     r->ids.list[r->framed + i],
                     (long long)json_integer_value(json_array_get(want, (size_t)i)));
}

static void same_spans(const char *where, const pc_rendered *r, const json_t *want)
{
    if (json_is_null(want)) {
        bool unknown = false;
        for (int64_t i = 0; i < r->answers; i++) unknown |= r->answer[i][0] < 0;
        assert_true(unknown);
        return;
    }
    if ((int64_t)json_array_size(want) != r->answers)
        fail_msg("%s: %lld answers, expected %zu", where, (long long)r->answers,
                 json_array_size(want));
    for (int64_t i = 0; i < r->answers; i++)
        for (size_t k = 0; k < 2; k++) {
            const json_t *span = json_array_get(want, (size_t)i);
            if (json_integer_value(json_array_get(span, k)) != r->answer[i][k])
                fail_msg("%s: answer %lld begins or ends at %lld, expected %lld", where,
                         (long long)i, (long long)r->answer[i][k],
                         (long long)json_integer_value(json_array_get(span, k)));
        }
}

// Every word of an answer is among what is learned, and the question's are not.
static void learned(const char *where, const pc_rendered *r, const pc_tokenizer *tok,
                    const json_t *messages)
{
    char *text = NULL;
    pc_ids ids = {0};
    for (int64_t i = 0; i < r->ids.count; i++)
        if (r->supervised[i]) assert_int_equal(pc_ids_add(&ids, r->ids.list[i]), PC_OK);
    assert_int_equal(pc_tokenizer_decode(tok, &text, ids.list, ids.count, false), PC_OK);
    size_t i, k;
    const json_t *one, *part;
    json_array_foreach(messages, i, one)
    {
        const bool assistant =
            !strcmp(json_string_value(json_object_get(one, "role")), "assistant");
        json_array_foreach(json_object_get(one, "content"), k, part)
        {
            const char *words = json_string_value(json_object_get(part, "text"));
            if (!words) continue;
            while (*words == ' ' || *words == '\n' || *words == '\t') words++;
            size_t n = strlen(words);
            while (n && strchr(" \n\t", words[n - 1])) n--;
            if ((memmem(text, strlen(text), words, n) != NULL) != assistant)
                fail_msg("%s: learned is '%s'; '%.*s' should%s be", where, text, (int)n, words,
                         assistant ? "" : " not");
        }
    }
    free(text);
    pc_ids_close(&ids);
}

// Contents flattened as the set's "str" form.
static json_t *flattened(const json_t *messages)
{
    json_t *out = json_deep_copy(messages), *one;
    size_t i, k;
    json_array_foreach(out, i, one)
    {
        char text[4096] = "";
        const json_t *part;
        json_array_foreach(json_object_get(one, "content"), k, part)
        {
            const char *words = json_string_value(json_object_get(part, "text"));
            strcat(text, words ? words : "<image>\n");
        }
        json_object_set_new(one, "content", json_string(text));
    }
    return out;
}

static void check_row(const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "template")),
               *error = json_string_value(json_object_get(row, "error"));
    const json_int_t number = json_integer_value(json_object_get(row, "conversation"));
    const json_t *list = json_array_get(conversations, (size_t)number);
    const bool flat = !strcmp(json_string_value(json_object_get(row, "messages")), "str");
    const pc_template *t = template_named(name);
    const pc_tokenizer *tok = tokenizer_named(json_string_value(json_object_get(row, "tokenizer")));
    char where[128];
    for (int form = 0; form <= flat; form++) { // the list form is made into texts by us too
        json_t *messages = form ? flattened(list) : json_incref((json_t *)(uintptr_t)list);
        for (int generate = 0; generate < 2; generate++) {
            const json_t *want =
                json_object_get(row, generate ? "text_with_generation_prompt" : "text");
            pc_rendered r;
            snprintf(where, sizeof where, "%s, conversation %lld%s", name, (long long)number,
                     generate ? ", generate" : "");
            const pc_status st =
                pc_template_render_json(t, &r, tok, messages, generate, image_id_of(tok, name));
            if (error) {
                assert_int_equal(st, PC_ERR_INPUT);
                if (!strstr(pc_error_text(), error)) fail_msg("%s: %s", where, pc_error_text());
                continue;
            }
            if (st) fail_msg("%s: %s", where, pc_error_text());
            if (json_is_string(want)) {
                if (strcmp(r.text, json_string_value(want)) != 0)
                    fail_msg("%s:\n%s\nexpected:\n%s", where, r.text, json_string_value(want));
                same_ids(where, &r,
                         json_object_get(row, generate ? "ids_with_generation_prompt" : "ids"));
            }
            if (!generate) same_spans(where, &r, json_object_get(row, "assistant_byte_spans"));
            learned(where, &r, tok, list);
            pc_rendered_close(&r);
        }
        json_decref(messages);
    }
}

static void test_rendered(void **state)
{
    (void)state;
    if (!meta) skip();
    const char *path = shared_path("goldens/chat/rendered.jsonl");
    char *text = NULL;
    size_t size = 0, rows = 0;
    assert_int_equal(pc_file_read(&text, &size, path, 64 << 20), PC_OK);
    for (char *line = text, *end; *line; line = end) {
        end = strchr(line, '\n');
        if (!end) end = line + strlen(line);
        json_t *row = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (row) {
            check_row(row);
            rows++;
        }
        json_decref(row);
        while (*end == '\n') end++;
    }
    print_message("%zu conversations\n", rows);
    assert_true(rows > 0);
    free(text);
}

static int setup(void **state)
{
    (void)state;
    meta = load("meta.json");
    conversations = load("conversations.json");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < KEPT; i++) {
        pc_template_close(templates[i].t);
        pc_tokenizer_close(tokenizers[i].t);
    }
    json_decref(meta);
    json_decref(conversations);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rendered)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
