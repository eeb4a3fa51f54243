/*
 * template_messages.c - messages in their two forms: contents as texts with "<image>" in them, and as lists of parts.
 *
 *   to a text   parts one after the other, an image as "<image>\n"
 *   to a list   the text between marks as parts of type text, less one newline behind a mark
 */
#include "data/text/template_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const ROLES[] = {"system", "user", "assistant"};

/* ---- to JSON ---- */

static bool add_part(json_t *list, const char *text, size_t size)
{
    if (size == 0) return true;
    return json_array_append_new(list,
                                 json_pack("{s:s, s:s%}", "type", "text", "text", text, size)) == 0;
}

// NULL: no memory.
static json_t *text_to_list(const char *text, int64_t *images)
{
    json_t *list = json_array();
    const char *at;
    bool ok = list != NULL;
    while (ok && (at = strstr(text, PC_IMAGE_MARK))) {
        ok = add_part(list, text, (size_t)(at - text)) &&
             json_array_append_new(list, json_pack("{s:s}", "type", "image")) == 0;
        text = at + strlen(PC_IMAGE_MARK);
        if (*text == '\n') text++;
        ++*images;
    }
    if (ok) ok = add_part(list, text, strlen(text));
    if (ok && json_array_size(list) == 0)
        ok = json_array_append_new(list, json_pack("{s:s, s:s}", "type", "text", "text", "")) == 0;
    if (ok) return list;
    json_decref(list);
    return NULL;
}

// The text with every mark replaced; NULL: no memory.
static json_t *text_with(const char *text, const char *image_text, int64_t *images)
{
    char *out = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&out, &size);
    if (!f) return NULL;
    for (const char *at; (at = strstr(text, PC_IMAGE_MARK)); text = at + strlen(PC_IMAGE_MARK)) {
        fwrite(text, 1, (size_t)(at - text), f);
        fputs(image_text, f);
        ++*images;
    }
    fputs(text, f);
    json_t *s = fclose(f) == 0 ? json_stringn(out, size) : NULL;
    free(out);
    return s;
}

json_t *pc_messages_json(const pc_message *messages, int n, bool lists, const char *image_text,
                         int64_t *images)
{
    json_t *all = json_array();
    *images = 0;
    for (int i = 0; all && i < n; i++) {
        const char *text = messages[i].text ? messages[i].text : "";
        json_t *content = lists ? text_to_list(text, images) : text_with(text, image_text, images);
        json_t *one =
            content ? json_pack("{s:s, s:o}", "role", ROLES[messages[i].role], "content", content)
                    : NULL;
        if (one && json_array_append_new(all, one) == 0) continue;
        json_decref(all);
        all = NULL;
    }
    return all;
}

/* ---- from JSON ---- */

static pc_status read_role(pc_role *out, const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    for (int i = 0; role && i < 3; i++)
        if (strcmp(role, ROLES[i]) == 0) {
            *out = (pc_role)i;
            return PC_OK;
        }
    return pc_fail(PC_ERR_INPUT, "`role` is \"%s\"; expected system, user or assistant",
                   role ? role : "(missing)");
}

static const char *kind_of(const json_t *v)
{
    return !v                   ? "missing"
           : json_is_object(v)  ? "an object"
           : json_is_number(v)  ? "a number"
           : json_is_boolean(v) ? "true or false"
                                : "null";
}

// A content as one malloc'ed text.
static pc_status read_content(char **out, const json_t *content)
{
    size_t size = 0, i;
    const json_t *part;
    *out = NULL;
    if (json_is_string(content)) {
        *out = strdup(json_string_value(content));
        return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "a message");
    }
    if (!json_is_array(content))
        return pc_fail(PC_ERR_INPUT, "`content` is %s; expected a text or a list of parts",
                       kind_of(content));
    FILE *f = open_memstream(out, &size);
    if (!f) return pc_fail(PC_ERR_MEMORY, "a message");
    pc_status st = PC_OK;
    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type")),
                   *text = json_string_value(json_object_get(part, "text"));
        if (type && strcmp(type, "image") == 0)
            fputs(PC_IMAGE_MARK "\n", f);
        else if (type && strcmp(type, "text") == 0 && text)
            fputs(text, f);
        else
            st = pc_fail(PC_ERR_INPUT, "content[%zu] is of type \"%s\"; expected image or text", i,
                         type ? type : "(missing)");
        if (st) break;
    }
    if (fclose(f) != 0 && !st) st = pc_fail(PC_ERR_MEMORY, "a message");
    if (st) {
        free(*out);
        *out = NULL;
    }
    return st;
}

pc_status pc_messages_read(pc_message *m, char **texts, const json_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(list, i);
        pc_status st = read_role(&m[i].role, one);
        if (!st) st = read_content(&texts[i], json_object_get(one, "content"));
        if (st) return pc_context(st, "message %zu", i + 1);
        m[i].text = texts[i];
    }
    return PC_OK;
}

/* ---- from one form to the other ---- */

static pc_status content_in_form(json_t *message, bool lists)
{
    const json_t *content = json_object_get(message, "content");
    json_t *other = NULL;
    int64_t images = 0;
    if (lists && json_is_string(content)) {
        other = text_to_list(json_string_value(content), &images);
    } else if (!lists && json_is_array(content)) {
        char *text = NULL;
        pc_status st = read_content(&text, content);
        if (st) return st;
        other = json_string(text);
        free(text);
    } else {
        return PC_OK;
    }
    if (!other || json_object_set_new(message, "content", other))
        return pc_fail(PC_ERR_MEMORY, "a message");
    return PC_OK;
}

pc_status pc_messages_in_form(json_t **out, const json_t *messages, bool lists)
{
    size_t i;
    json_t *one;
    pc_status st = PC_OK;
    *out = json_deep_copy(messages);
    if (!*out) return pc_fail(PC_ERR_MEMORY, "messages");
    json_array_foreach(*out, i, one)
    {
        if (!json_is_object(one))
            st = pc_fail(PC_ERR_INPUT, "expected an object with `role` and `content`");
        else
            st = content_in_form(one, lists);
        if (!st) continue;
        pc_context(st, "message %zu", i + 1);
        json_decref(*out);
        *out = NULL;
        break;
    }
    return st;
}
