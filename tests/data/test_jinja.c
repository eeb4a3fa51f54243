/*
 * test_jinja.c - the template language: what Jinja 3.1.6 gives for the same (with trim_blocks and lstrip_blocks),
 * what is refused and how it is said, limits, where bytes come from, and broken templates by the thousand.
 */
#include "data/text/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define VARIABLES                                                                                  \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"hi  \"}, {\"role\": \"assistant\", "      \
    "\"content\": \"  yo\"}], \"x\": 5, \"s\": \"h\\u00e9llo w\\u00f6rld\", \"l\": [3, 1, 2], "    \
    "\"d\": {\"b\": 1, \"a\": \"z\", \"items\": 3}, \"n\": null, \"f\": 2.5, \"e\": [], "          \
    "\"t\": \"a,b,c\"}"

static json_t *variables;

// Template, text. The second lines were printed by the reference.
// clang-format off
static const char *const rows[][2] = {
    {"{{ -x ** 2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ x / 2 }} {{ 2 ** -1 }} {{ 7.5 // 2 }}",
     "25 -4 2 2.5 0.5 3.0"},
    {"{{ 1e16 }} {{ 1e-5 }} {{ 123456789.125 }} {{ 1.0 }} {{ 0x1F }} {{ 1_000 }}",
     "1e+16 1e-05 123456789.125 1.0 31 1000"},
    {"{{ s|upper }} {{ s.title() }} {{ s|title }} {{ s[1:3] }} {{ s[::-1] }} {{ s[-1] }} {{ s|length }}",
     "H\303\211LLO W\303\226RLD H\303\251llo W\303\266rld H\303\251llo W\303\266rld \303\251l dlr\303\266w oll\303\251h d 11"},
    {"{{ l[::-1] }} {{ l[-2:] }} {{ l|sort }} {{ l|join('-') }} {{ l|first }} {{ l|last }} {{ l|sum }} {{ l|max }}",
     "[2, 1, 3] [1, 2] [1, 2, 3] 3-1-2 3 2 6 3"},
    {"{{ d }} {{ d.a }} {{ d['items'] }} {{ d.items()|list }} {{ d.zz }}|{{ d.get('q', 'w') }}",
     "{'b': 1, 'a': 'z', 'items': 3} z 3 [('b', 1), ('a', 'z'), ('items', 3)] |w"},
    {"{{ 'a' ~ 1 ~ none ~ true }} {{ [1, 'a', none, 2.5, true] }} {{ (1,) }} {{ () }}",
     "a1NoneTrue [1, 'a', None, 2.5, True] (1,) ()"},
    {"{{ ['it\\'s', '\"', '\\n\\\\'] }}",
     "[\"it's\", '\"', '\\n\\\\']"},
    {"{{ '\\u00e9\\x41\\101' }} {{ 'a' 'b' }} {{ '}}' }} {{ \"{%\" }}",
     "\303\251AA ab }} {%"},
    {"{{ 1 < x < 10 }} {{ 1 < x < 3 }} {{ x == 5.0 }} {{ 3 in l }} {{ 'h' not in s }} {{ not x or true }}",
     "True False True True False True"},
    {"{{ 'a' if x > 3 else 'b' if x else 'c' }} {{ 1 if not x }}|{{ x and 0 }} {{ 0 or 'a' }}",
     "a |0 a"},
    {"{{ 'a' + 'B '|trim + 'c' }} {{ -x|abs }} {{ x|string|length }}",
     "aBc 5 1"},
    {"{{ d|tojson }} {{ d|tojson(indent=2) }} {{ '\303\251\"\\n'|tojson }} {{ [1,2]|tojson(separators=(',',':')) }}",
     "{\"b\": 1, \"a\": \"z\", \"items\": 3} {\n  \"b\": 1,\n  \"a\": \"z\",\n  \"items\": 3\n} \"\303\251\\\"\\n\" [1,2]"},
    {"{{ messages|selectattr('role','equalto','user')|map(attribute='content')|first|trim }}",
     "hi"},
    {"{{ messages|rejectattr('role', 'equalto', 'user')|list|length }} {{ l|select('odd')|list }} {{ l|reject('gt', 1)|list }}",
     "1 [3, 1] [1]"},
    {"{{ ['b','A','c']|sort }} {{ ['b','A','c']|sort(case_sensitive=true) }} {{ d|dictsort|length }} {{ ['A','a','b']|unique|list }}",
     "['A', 'b', 'c'] ['A', 'b', 'c'] 3 ['A', 'b']"},
    {"{{ 'a\\n\\nb'|indent(2) }}|{{ 'a\\nb'|indent(2, true) }}|{{ '<a&\"\\'>'|e }}",
     "a\n\n  b|  a\n  b|&lt;a&amp;&#34;&#39;&gt;"},
    {"{{ '5.7'|int }} {{ 'zz'|int(9) }} {{ 3.456|round(2) }} {{ 2.5|round(0, 'ceil') }} {{ '2.5'|float }}",
     "5 9 3.46 3.0 2.5"},
    {"{{ t.split(',') }} {{ t.rsplit(',', 1) }} {{ ' a  b '.split() }} {{ t.replace(',', '-', 1) }} {{ s.partition(' ') }}",
     "['a', 'b', 'c'] ['a,b', 'c'] ['a', 'b'] a-b,c ('h\303\251llo', ' ', 'w\303\266rld')"},
    {"{{ s.startswith('h') }} {{ s.endswith(('x', 'ld')) }} {{ s.find('w') }} {{ s.count('l') }} {{ '{} {0}'.format(1) if false else 'x' }}",
     "True True 6 3 x"},
    {"{{ zz is defined }} {{ zz|default('q') }} {{ n|default('q', true) }} {{ n is none }} {{ x is divisibleby 5 }} {{ d is mapping }} {{ l is string }}",
     "False q q True True True False"},
    {"{{ range(2, 8, 3)|list }} {{ range(3)[1] }} {{ dict(a=1).a }}",
     "[2, 5] 1 1"},
    {"a\n{% if x %}\nb\n{% endif %}\nc\n",
     "a\nb\nc"},
    {"  {% if x %}  \n b{% endif %}",
     "  \n b"},
    {"{%- if x -%}  \n b {%- endif -%} \n c",
     "bc"},
    {"x {{- x -}} y\n{{ x }}\n\nz",
     "x5y\n5\n\nz"},
    {"  {# c #}  \nz a {#- c -#} b\n{# c #}\nd",
     "  \nz ab\nd"},
    {"a\n  {%+ if x %}b{% endif %}\n{% if x +%}\nb{% endif %}",
     "a\n  b\nb"},
    {"  {% raw %}\n {{ {% endraw %}\nq {%- raw -%} \n a {%- endraw -%}  b",
     "\n {{ qab"},
    {"a\r\nb\rc\n\n",
     "a\nb\nc\n"},
    {"{% for i in l %}{{ i }}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }}{% if not loop.last %},{% endif %}{% endfor %}",
     "31TrueFalse33,12FalseFalse23,23FalseTrue13"},
    {"{% for i in l if i > 1 %}{{ loop.index0 }}:{{ i }} {% else %}none{% endfor %}{% for i in e %}{{ i }}{% else %}none{% endfor %}",
     "0:3 1:2 none"},
    {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for c in s %}{{ c }}.{% endfor %}",
     "b=1;a=z;items=3;h.\303\251.l.l.o. .w.\303\266.r.l.d."},
    {"{% set a = 1 %}{% for i in l %}{% set a = i %}{{ a }}{% endfor %}{{ a }}",
     "3121"},
    {"{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
     "7"},
    {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set q %}x{{ x }}y{% endset %}{{ q|length }}{% set q|upper %}xy{% endset %}{{ q }}",
     "123XY"},
    {"{% macro m(a, b=2) %}[{{ a }},{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, b=3) }}{{ m(b=1, a=2) }}{{ m() }}",
     "[1,2][1,3][2,1][,2]"},
    {"{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
     "54321"},
    {"{% filter upper %}ab{{ s }}{% endfilter %}{% with a=1, b=2 %}{{ a + b }}{% endwith %}{{ a }}",
     "ABH\303\211LLO W\303\226RLD3"},
    {"{% generation %}{{ s }}{% set q = 1 %}{% endgeneration %}{{ q }}",
     "h\303\251llo w\303\266rld"},
    {"{% for i in range(10) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
     "02"},
    {"{% for i in l %}{{ loop.previtem }}-{{ loop.nextitem }} {{ loop.cycle('a', 'b') }}{{ loop.changed(1) }}{% endfor %}",
     "-1 aTrue3-2 bFalse1- aFalse"},
    {"{% set q = l|select('odd') %}{% for i in q %}{{ i }}{% endfor %}{% for i in q %}{{ i }}{% endfor %}{{ 1 if l|select('gt', 100) else 2 }}",
     "311"},
    {"{{ 'x' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ [1, 2] < [1, 3] }} {{ {'a': 1} == {'a': 1} }}",
     "xxx [1, 1] [1, 2] True True"},
    {"{{ [[1, 2], [3]]|map('length')|list }} {{ [{'a': {'b': 1}}]|map(attribute='a.b')|list }} {{ [1, 2, 3]|batch(2)|list }}",
     "[2, 1] [1] [[1, 2], [3]]"},
};
// clang-format on

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        pc_jinja *t;
        pc_jinja_output o;
        if (pc_jinja_open(&t, rows[i][0], strlen(rows[i][0])) || pc_jinja_render(t, &o, variables))
            fail_msg("%s\n%s", rows[i][0], pc_error_text());
        if (strcmp(o.text, rows[i][1]) != 0)
            fail_msg("%s\ngives\n%s\nexpected\n%s", rows[i][0], o.text, rows[i][1]);
        assert_int_equal(o.size, strlen(o.text));
        pc_jinja_output_close(&o);
        pc_jinja_close(t);
    }
}

/* ---- refusals ---- */

typedef struct refusal {
    const char *source, *message;
} refusal;

static void refused(const refusal *r, pc_status code)
{
    pc_jinja *t = NULL;
    pc_jinja_output o = {0};
    pc_status st = pc_jinja_open(&t, r->source, strlen(r->source));
    if (code == PC_ERR_INPUT && st) fail_msg("%s\n%s", r->source, pc_error_text());
    if (!st) st = pc_jinja_render(t, &o, variables);
    if (st != code)
        fail_msg("%s\nstatus %d, '%s'", r->source, st, o.text ? o.text : pc_error_text());
    if (!strstr(pc_error_text(), r->message))
        fail_msg("%s\nsays '%s', not '%s'", r->source, pc_error_text(), r->message);
    assert_null(o.text);
    pc_jinja_close(t);
}

static void test_outside_the_subset(void **state)
{
    (void)state;
    static const refusal list[] = {
        {"a\n\n{% include 'x' %}", "line 3: statement 'include' is not supported"},
        {"{% extends 'x' %}", "'extends'"},
        {"{% import 'x' as y %}", "'import'"},
        {"{% block a %}{% endblock %}", "'block'"},
        {"{% fro x in y %}", "unknown statement 'fro' (nearest: 'for')"},
        {"\n{{ x|uper }}", "line 2: filter 'uper' is not supported (nearest: 'upper')"},
        {"{{ x is strin }}", "test 'strin' is not supported (nearest: 'string')"},
        {"{% for i in l recursive %}{% endfor %}", "'recursive'"},
        {"{{ f(*l) }}", "unpacked"},
        {"{{ l[1, 2] }}", "several items"},
        {"{{ x", "never closed"},
        {"{% if x %}\n", "line 1: {% if %} is never closed"},
        {"{% for i in l %}{% endif %}", "unknown statement 'endif'"},
        {"{# a", "comment"},
        {"{% raw %}", "never closed"},
        {"{{ 'a }}", "never closed"},
        {"{{ }}", "a value is missing"},
        {"{{ x y }}", "}} is missing"},
        {"{% if x y %}{% endif %}", "%} is missing"},
        {"{{ ? }}", "'?'"},
        {"{% break %}", "outside of a loop"},
        {"{% set 1 = 2 %}", "expected a name"},
        {"{{ 99999999999999999999 }}", "too large"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) refused(&list[i], PC_ERR_FORMAT);
}

static void test_raised(void **state)
{
    (void)state;
    static const refusal list[] = {
        {"a\n{{ raise_exception('no ' ~ x) }}", "line 2: no 5"},
        {"{{ zz.a }}", "'zz' is undefined"},
        {"{{ zz + 1 }}", "'zz' is undefined"},
        {"{{ zz() }}", "'zz' is undefined"},
        {"{{ d.zz.y }}", "'zz' is undefined"},
        {"{{ 'a' + 1 }}", "can only concatenate str (not \"int\") to str"},
        {"{{ 1 < 'a' }}", "have no order"},
        {"{{ n() }}", "not callable"},
        {"{{ s.zz() }}", "method 'zz' is not supported"},
        {"{{ 1 // 0 }}", "division by zero"},
        {"{% for i in 5 %}{% endfor %}", "not iterable"},
        {"{% for a, b in l %}{% endfor %}", "not iterable"},
        {"{% set d.q = 1 %}", "no namespace"},
        {"{% set y = d.update({}) %}", "cannot be changed"},
        {"{{ l|select('odd')|length }}", "has no length"},
        {"{{ 9223372036854775807 + 1 }}", "64 bits"},
        {"{{ zz|tojson }}", "not JSON serializable"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "not more than 1"},
        {"{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", "no such argument"},
        {"{{ 'a%s' % 1 }}", "%"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) refused(&list[i], PC_ERR_INPUT);
}

/* ---- limits ---- */

static char *repeated(const char *before, const char *what, int n, const char *behind)
{
    char *out = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&out, &size);
    assert_non_null(f);
    fputs(before, f);
    for (int i = 0; i < n; i++) fputs(what, f);
    fputs(behind, f);
    assert_int_equal(fclose(f), 0);
    return out;
}

static void test_limits(void **state)
{
    (void)state;
    static const refusal run[] = {
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deeper than"},
        {"{{ range(1000000) }}", "more than 100000 items"},
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more"},
        {"{{ 'abcdefgh' * 99999999 }}", "MB"},
        {"{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
         "{% endfor %}",
         "MB"},
        {"{{ [1] * 999999999 }}", ""},
    };
    for (size_t i = 0; i < sizeof run / sizeof *run; i++) refused(&run[i], PC_ERR_INPUT);
    const struct {
        const char *before, *what, *behind;
    } deep[] = {{"{{ ", "(", ""},
                {"{{ ", "[", ""},
                {"{{ ", "not ", "x }}"},
                {"{{ ", "-", "x }}"},
                {"", "{% if x %}", ""},
                {"{% if x %}", "{% elif x %}", ""},
                {"{{ x", " if x else x", " }}"}};
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        char *source = repeated(deep[i].before, deep[i].what, 100000, deep[i].behind);
        pc_jinja *t = NULL;
        const pc_status st = pc_jinja_open(&t, source, strlen(source));
        if (st != PC_ERR_FORMAT) fail_msg("%s: status %d", deep[i].what, st);
        free(source);
    }
    char *large = repeated("", "0123456789abcdef", 70000, "");
    pc_jinja *t = NULL;
    assert_int_equal(pc_jinja_open(&t, large, strlen(large)), PC_ERR_FORMAT);
    free(large);
}

/* ---- where bytes come from ---- */

static void test_origins(void **state)
{
    (void)state;
    static const char source[] =
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
        "{% generation %}{{ (m['content']|trim ~ '!')|upper }}{% endgeneration %}"
        "{% else %}{{ m.content.strip() + '.' }}{% endif %}{% endfor %}";
    pc_jinja *t;
    pc_jinja_output o;
    char marks[64] = "";
    assert_int_equal(pc_jinja_open(&t, source, strlen(source)), PC_OK);
    assert_int_equal(pc_jinja_render(t, &o, variables), PC_OK);
    assert_string_equal(o.text, "<user>hi.<assistant>YO!");
    for (size_t i = 0; i < o.size; i++) marks[i] = ".AO"[o.origin[i]];
    assert_string_equal(marks, "......OO............AA.");
    assert_int_equal(o.generations, 1);
    assert_int_equal(o.generation[0][0], 20);
    assert_int_equal(o.generation[0][1], 23);
    assert_true(pc_jinja_has_string(t, "assistant"));
    assert_false(pc_jinja_has_string(t, "assist"));
    pc_jinja_output_close(&o);
    pc_jinja_close(t);
}

/* ---- broken templates: an end, whatever it is ---- */

static void test_broken(void **state)
{
    (void)state;
    uint64_t seed = 20250117; // splitmix64
    static const char *const bits[] = {"{{", "}}",  "{%", "%}",     "{#", "#}", "(",
                                       ")",  "[",   "]",  "|",      "'",  "\"", "\\",
                                       "if", "for", "in", "endfor", "-",  ":"};
    printf("seed %llu\n", (unsigned long long)seed);
    int opened = 0;
    for (int i = 0; i < 20000; i++) {
        const char *base = rows[(size_t)i % (sizeof rows / sizeof *rows)][0];
        char text[600];
        size_t n = strlen(base);
        memcpy(text, base, n + 1);
        for (int k = 0; k < 1 + i % 3; k++) {
            seed += 0x9E3779B97F4A7C15u;
            uint64_t z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9u;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
            z ^= z >> 31;
            const size_t at = (size_t)(z % n);
            const char *bit = bits[(z >> 32) % (sizeof bits / sizeof *bits)];
            if ((z >> 24 & 3) == 0)
                memmove(text + at, text + at + 1, --n - at); // a byte goes
            else if ((z >> 24 & 3) == 1)
                text[at] = (char)(z >> 40); // a byte changes
            else {
                const size_t m = strlen(bit); // a piece comes
                memmove(text + at + m, text + at, n - at);
                for (size_t q = 0; q < m; q++) text[at + q] = bit[q];
                n += m;
            }
        }
        pc_jinja *t = NULL;
        pc_jinja_output o;
        if (pc_jinja_open(&t, text, n)) continue;
        opened++;
        if (!pc_jinja_render(t, &o, variables)) pc_jinja_output_close(&o);
        pc_jinja_close(t);
    }
    assert_true(opened > 1000 && opened < 19000); // both ways are taken
}

static int setup(void **state)
{
    (void)state;
    variables = json_loads(VARIABLES, 0, NULL);
    return variables == NULL;
}

static int teardown(void **state)
{
    (void)state;
    json_decref(variables);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),   cmocka_unit_test(test_outside_the_subset),
        cmocka_unit_test(test_raised),  cmocka_unit_test(test_limits),
        cmocka_unit_test(test_origins), cmocka_unit_test(test_broken),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
