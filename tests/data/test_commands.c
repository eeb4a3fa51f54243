/*
 * test_commands.c - percept-data as people run it: what it prints, where, and with which exit status. The program
 * is the one in $PERCEPT_BIN; without it these tests are skipped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/data/small_set.h"

#include "checkpoints/bundle.h"
#include "model/core/file.h"
#include <jansson.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct ran {
    int status;
    char *out, *err;
} ran;

static char *contents(const char *name)
{
    char *text;
    size_t size;
    if (pc_file_read(&text, &size, scratch_path(name), 1 << 26)) fail_msg("%s", pc_error_text());
    return text;
}

/* Runs `percept-data ARGS` in the scratch folder, with `input` on its standard input. */
static ran run(const char *input, const char *fmt, ...) PC_PRINTF(2, 3);
static ran run(const char *input, const char *fmt, ...)
{
    char args[4096], line[16384];
    va_list list;
    va_start(list, fmt);
    vsnprintf(args, sizeof args, fmt, list);
    va_end(list);
    set_write_file("stdin", input ? input : "");
    snprintf(line, sizeof line, "cd '%s' && '%s/percept-data' %s <stdin >stdout 2>stderr",
             scratch_path(""), getenv("PERCEPT_BIN"), args);
    const int code = system(line);
    const ran r = {WIFEXITED(code) ? WEXITSTATUS(code) : -1, contents("stdout"),
                   contents("stderr")};
    return r;
}

static void done(ran *r)
{
    free(r->out);
    free(r->err);
}

static void expect(const ran *r, int status, const char *in_out, const char *in_err)
{
    if (r->status != status || (in_out && !strstr(r->out, in_out)) ||
        (in_err && !strstr(r->err, in_err)))
        fail_msg("status %d, expected %d\nout: %s\nerr: %s", r->status, status, r->out, r->err);
}

static bool missing(void)
{
    return !getenv("PERCEPT_BIN");
}

static void train_tokenizer(void)
{
    ran r = run(NULL, "tokenizer train captions.jsonl talk.json --out tok.json --vocab 300");
    expect(&r, 0, "tok.json: 300 tokens", NULL);
    done(&r);
}

static void test_help_and_usage(void **state)
{
    (void)state;
    if (missing()) skip();
    static const char *const commands[] = {"scenes",   "check",  "tokenizer train",
                                           "tokenize", "render", "preprocess"};
    ran r = run(NULL, "--help");
    for (int i = 0; i < 6; i++) expect(&r, 0, commands[i], NULL);
    assert_null(strstr(r.out, "pack"));
    done(&r);
    for (int i = 0; i < 6; i++) {
        r = run(NULL, "%s --help", commands[i]);
        expect(&r, 0, "Examples", NULL);
        done(&r);
        r = run(NULL, "%s --nonsense", commands[i]);
        expect(&r, 2, NULL, "nonsense");
        done(&r);
        r = run(NULL, "%s", commands[i]); // no positional argument
        expect(&r, 2, NULL, "error: ");
        done(&r);
    }
    r = run(NULL, "--version");
    expect(&r, 0, "percept", NULL);
    done(&r);
    r = run(NULL, "scene x");
    expect(&r, 2, NULL, "'scenes'");
    done(&r);
}

static void test_scenes(void **state)
{
    (void)state;
    if (missing()) skip();
    ran r = run(NULL, "scenes drawn --images 12 --size 32 --json");
    expect(&r, 0, "\"train\":12", NULL);
    assert_string_equal(strchr(r.out, '{'), r.out); // nothing but the JSON
    done(&r);
    assert_true(pc_file_exists(scratch_path("drawn/scenes.json")));
    r = run(NULL, "check drawn");
    expect(&r, 0, "drawn/vqa-train.json: conversations", NULL);
    assert_null(strstr(r.out, "scenes.json")); // the ground truth is no data set
    done(&r);
    r = run(NULL, "scenes drawn --images 0");
    expect(&r, 2, NULL, "images");
    done(&r);
    r = run(NULL, "scenes /dev/null/x --images 4");
    expect(&r, 1, NULL, "/dev/null");
    done(&r);
}

static void test_tokenizer_train(void **state)
{
    (void)state;
    if (missing()) skip();
    train_tokenizer();
    char *first = contents("tok.json");
    train_tokenizer();
    char *again = contents("tok.json");
    assert_string_equal(first, again);
    free(first);
    free(again);
    ran r =
        run(NULL, "tokenizer train captions.jsonl --out few.json --vocab 9000 --template chatml "
                  "--special '<x>'");
    expect(&r, 0, "few.json: ", "not 9000");
    done(&r);
    pc_tokenizer *t;
    assert_int_equal(pc_tokenizer_open(&t, scratch_path("few.json")), PC_OK);
    assert_true(pc_tokenizer_id(t, "<|im_end|>") > 0 && pc_tokenizer_id(t, "<x>") > 0);
    pc_tokenizer_close(t);
    set_write_file("plain.txt", "low low low\nlower lower\n");
    r = run(NULL, "tokenizer train plain.txt --out p.json --vocab 262 --json");
    expect(&r, 0, "\"texts\":2", NULL);
    done(&r);
    r = run(NULL, "tokenizer train plain.txt --out p.json --vocab 20");
    expect(&r, 2, NULL, "vocab");
    done(&r);
    r = run(NULL, "tokenizer train plain.txt --vocab 300");
    expect(&r, 2, NULL, "--out");
    done(&r);
    r = run(NULL, "tokenizer train none.txt --out p.json --vocab 300");
    expect(&r, 1, NULL, "none.txt");
    done(&r);
    set_write_file("odd.jsonl", "{\"caption\": \"x\"}\n");
    r = run(NULL, "tokenizer train odd.jsonl --out p.json --vocab 300");
    expect(&r, 1, NULL, "odd.jsonl:1: no words");
    done(&r);
    r = run(NULL, "tokenizer train odd.jsonl --plain --out p.json --vocab 300");
    expect(&r, 0, "1 texts", NULL);
    done(&r);
}

static void test_tokenize_and_back(void **state)
{
    (void)state;
    if (missing()) skip();
    train_tokenizer();
    const char *text = "What is it?\n\n  a cat <image></s> caf\xC3\xA9\n";
    ran r = run(text, "tokenize tok.json"), back;
    expect(&r, 0, "[]", NULL); // the empty line
    back = run(r.out, "tokenize tok.json --decode");
    expect(&back, 0, NULL, NULL);
    assert_string_equal(back.out, text);
    done(&back);
    back = run(r.out, "tokenize tok.json --decode --skip-special");
    expect(&back, 0, "  a cat  caf\xC3\xA9\n", NULL);
    done(&back);
    done(&r);

    r = run("\"a\\nb\"\n\"</s>\"\n", "tokenize tok.json --json --add-special");
    json_t *ids = json_loads(r.out, JSON_DISABLE_EOF_CHECK, NULL);
    assert_int_equal(json_integer_value(json_array_get(ids, 0)), 297); // <s>
    expect(&r, 0, "[297,298]", NULL);
    json_decref(ids);
    done(&r);
    r = run("</s>\n", "tokenize tok.json --no-parse-special");
    expect(&r, 0, "[", NULL);
    assert_null(strstr(r.out, "298"));
    done(&r);
    r = run("[72, 69]\n", "tokenize tok.json --decode --json");
    expect(&r, 0, "\"if\"\n", NULL); // the alphabet begins with '!'
    done(&r);

    static const struct {
        const char *in, *flags, *message;
    } bad[] = {{"x\n", "--json", ":1:"},
               {"[1]\n3\n", "--decode", ":2:"},
               {"[1, 300]\n", "--decode", "300"},
               {"[-1]\n", "--decode", "entry 0"}};
    for (int i = 0; i < 4; i++) {
        r = run(bad[i].in, "tokenize tok.json %s", bad[i].flags);
        expect(&r, 1, NULL, bad[i].message);
        done(&r);
    }
    r = run("", "tokenize none.json");
    expect(&r, 1, NULL, "none.json");
    done(&r);
}

static void test_render(void **state)
{
    (void)state;
    if (missing()) skip();
    train_tokenizer();
    set_write_file(
        "talks.jsonl",
        "[{\"role\": \"user\", \"content\": \"<image>\\nWhat is it?\"}, {\"role\": \"assistant\", "
        "\"content\": \"a cat\"}]\n\n{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"image\"}, {\"type\": \"text\", \"text\": \"Is it red?\"}]}]}\n");
    ran r = run(NULL, "render short --tokenizer tok.json --messages talks.jsonl");
    expect(&r, 0, "<image> What is it?\n[[ a cat</s>]]\n", NULL);
    expect(&r, 0, "<image> Is it red?", NULL);
    done(&r);
    r = run(NULL, "render short --tokenizer tok.json --messages talks.jsonl --json --generate");
    json_error_t error;
    json_t *row = json_loads(r.out, JSON_DISABLE_EOF_CHECK, &error);
    expect(&r, 0, "\"text\":\"<image> Is it red?\\n\"", NULL);
    assert_string_equal(json_string_value(json_object_get(row, "text")),
                        "<image> What is it?\n a cat</s>\n");
    const json_t *spans = json_object_get(row, "supervised");
    assert_int_equal(json_array_size(spans), 1);
    const json_int_t end = json_integer_value(json_array_get(json_array_get(spans, 0), 1));
    assert_int_equal(json_integer_value(
                         json_array_get(json_object_get(row, "ids"), (size_t)end - 1)),
                     298);
    json_decref(row);
    done(&r);

    static const struct {
        const char *line, *message;
    } bad[] = {{"[{\"role\": \"robot\", \"content\": \"x\"}]", "robot"},
               {"[{\"role\": \"user\", \"content\": 3}]", "a number"},
               {"[{\"role\": \"user\", \"content\": [{\"type\": \"video\"}]}]", "video"},
               {"[{\"role\": \"assistant\", \"content\": \"x\"}]", "expected the user's"},
               {"[]", "without"},
               {"{}", "messages"},
               {"nonsense", "column"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        set_write_file("bad.jsonl", bad[i].line);
        r = run(NULL, "render short --tokenizer tok.json --messages bad.jsonl");
        expect(&r, 1, NULL, bad[i].message);
        expect(&r, 1, NULL, "bad.jsonl:1: ");
        done(&r);
    }
    r = run(NULL, "render short --messages talks.jsonl");
    expect(&r, 2, NULL, "--tokenizer");
    done(&r);
    r = run(NULL, "render nowhere.h5 --messages talks.jsonl");
    expect(&r, 1, NULL, "nowhere.h5");
    done(&r);
}

// A template of a model's own: from a file, and from a directory that says it.
static void test_render_own(void **state)
{
    (void)state;
    if (missing()) skip();
    train_tokenizer();
    static const char own[] = "{% for m in messages %}{{ bos_token if loop.first }}{{ m.role }}:"
                              "{{ m.content }}{{ eos_token }}\n{% endfor %}"
                              "{% if add_generation_prompt %}assistant:{% endif %}";
    set_write_file("own.jinja", own);
    set_write_file("talk.jsonl", "[{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": "
                                 "\"assistant\", \"content\": \"a cat\"}]\n");
    ran r = run(NULL, "render own.jinja --tokenizer tok.json --bos '' --eos '</s>' --json "
                      "--messages talk.jsonl");
    expect(&r, 0, "\"text\":\"user:Hi</s>\\nassistant:a cat</s>\\n\"", NULL);
    expect(&r, 0, "\"assistant_byte_spans\":[[22,32]]", NULL);
    done(&r);
    r = run(NULL, "render own.jinja --messages talk.jsonl");
    expect(&r, 2, NULL, "--tokenizer");
    done(&r);

    json_t *config = json_pack("{s:s, s:{s:s}, s:n}", "chat_template", own, "eos_token", "content",
                               "</s>", "bos_token");
    char *text = json_dumps(config, 0);
    mkdir(scratch_path("own"), 0777);
    char *tokenizer = contents("tok.json");
    set_write_file("own/tokenizer.json", tokenizer);
    free(tokenizer);
    set_write_file("own/tokenizer_config.json", text);
    free(text);
    json_decref(config);
    r = run(NULL, "render own --messages talk.jsonl --generate");
    expect(&r, 0, "user:Hi</s>\nassistant:[[a cat</s>\n]]assistant:", NULL);
    done(&r);
    set_write_file("own/chat_template.jinja", "{{ messages[0].content }}{% include 'x' %}");
    r = run(NULL, "render own --messages talk.jsonl");
    expect(&r, 1, NULL, "line 1: statement 'include' is not supported");
    expect(&r, 1, NULL, "`template:`");
    done(&r);
    set_write_file("own/chat_template.jinja",
                   "{{ raise_exception('not ' + messages[0].content) }}");
    r = run(NULL, "render own --messages talk.jsonl --json");
    expect(&r, 1, "\"error\":\"chat template 'own': line 1: not Hi\"", "talk.jsonl:1: ");
    done(&r);
}

static void test_check(void **state)
{
    (void)state;
    if (missing()) skip();
    train_tokenizer();
    ran r = run(NULL, "check captions.jsonl talk.json --tokenizer tok.json --template short");
    expect(&r, 0, "captions.jsonl: captions\n  12 rows, 36 texts\n  12 images of 16 x 16 pixels",
           NULL);
    expect(&r, 0, "talk.json: conversations\n  12 rows, 60 texts", NULL);
    expect(&r, 0, "the longest row has", NULL);
    expect(&r, 0, "\"caption three\" is a caption of captions.jsonl:1 and of captions.jsonl:2",
           NULL);
    done(&r);

    // Everything that can be wrong, in one file: told with its place, and status 1.
    set_write_file("img/cut.png", "\x89PNG\r\n\x1a\n, cut");
    set_write_file("wrong.jsonl", "{\"image\": \"img/0.png\", \"captions\": [\"fine\"]}\n"
                                  "{\"image\": \"img/0.png\", \"captions\": [\"fine\"]}\n"
                                  "{\"image\": \"img/cut.png\", \"captions\": [\"one\"]}\n"
                                  "{\"image\": \"img/cut.png\", \"captions\": [\"two\"]}\n"
                                  "{\"image\": \"../x.png\", \"captions\": [\"x\"]}\n"
                                  "{\"image\": \"img/0.png\", \"captions\": [\"\"]}\n"
                                  "not json\n");
    r = run(NULL, "check wrong.jsonl");
    expect(&r, 1, "UNUSABLE: 5 rows", "5 rows in 1 of 1 files");
    expect(&r, 1, "wrong.jsonl:3: image './img/cut.png'", NULL);
    expect(&r, 1, "wrong.jsonl:5: ", NULL);
    expect(&r, 1, "wrong.jsonl:6: captions[0] is empty", NULL);
    expect(&r, 1, "wrong.jsonl:7: column", NULL);
    expect(&r, 1, "wrong.jsonl:2 says what wrong.jsonl:1 says", NULL);
    done(&r);
    r = run(NULL, "check wrong.jsonl --no-images --json");
    json_t *all = json_loads(r.out, 0, NULL);
    assert_int_equal(r.status, 1);
    assert_int_equal(json_integer_value(json_object_get(all, "unusable")), 3);
    const json_t *file = json_array_get(json_object_get(all, "files"), 0);
    assert_int_equal(json_array_size(json_object_get(file, "problems")), 3);
    json_decref(all);
    done(&r);

    r = run(NULL, "check talk.json --tokenizer tok.json --template short --max-tokens 30 "
                  "--image-rows 4");
    expect(&r, 0, "12 rows lose their last turns", NULL);
    done(&r);
    r = run(NULL, "check talk.json --tokenizer tok.json --template short --max-tokens 30 "
                  "--image-rows 30");
    expect(&r, 1, "UNUSABLE: 12 rows", NULL);
    expect(&r, 1, "talk.json row 0: the first turn takes", NULL);
    done(&r);
    r = run(NULL, "check none.json");
    expect(&r, 1, "none.json", "1 rows in 1 of 1");
    done(&r);
    r = run(NULL, "check img");
    expect(&r, 1, NULL, "holds no .json");
    done(&r);
    r = run(NULL, "check captions.jsonl --images img");
    expect(&r, 1, "img/img/0.png", NULL);
    done(&r);
}

/* A full disk is an error, not half an answer. */
static void test_full_disk(void **state)
{
    (void)state;
    if (missing() || access("/dev/full", W_OK)) skip();
    train_tokenizer();
    char line[16384];
    snprintf(line, sizeof line,
             "cd '%s' && echo hello | '%s/percept-data' tokenize tok.json >/dev/full 2>stderr",
             scratch_path(""), getenv("PERCEPT_BIN"));
    const int code = system(line);
    char *err = contents("stderr");
    assert_int_equal(WEXITSTATUS(code), 1);
    assert_non_null(strstr(err, "standard output"));
    free(err);
}

/* Pixels of the command are those of the function, under the settings of a published model. */
static void test_preprocess(void **state)
{
    (void)state;
    const char *model = shared_path("goldens/clip_tiny/a");
    char here[4096], path[8300];
    if (missing() || !model) skip();
    if (*model != '/') {
        assert_non_null(getcwd(here, sizeof here));
        snprintf(path, sizeof path, "%s/%s", here, model);
        model = path;
    }
    ran r = run(NULL, "preprocess '%s' img/0.png img/1.png --out p.safetensors", model);
    expect(&r, 0, "pixel_values (2,3,32,32)", NULL);
    done(&r);
    pc_safetensors *s;
    assert_int_equal(pc_safetensors_open(&s, scratch_path("p.safetensors")), PC_OK);
    const pc_st_entry *e = pc_safetensors_find(s, "pixel_values");
    assert_non_null(e);
    pc_bundle b;
    assert_int_equal(pc_bundle_open_light(&b, model), PC_OK);
    float *want = malloc(3 * 32 * 32 * sizeof *want);
    for (int i = 0; i < 2; i++) {
        pc_image im;
        assert_int_equal(pc_image_open(&im, scratch_path(i ? "img/1.png" : "img/0.png"), true), 0);
        assert_int_equal(pc_image_preprocess(want, &im, &b.image), 0);
        assert_memory_equal((const float *)e->data + i * 3 * 32 * 32, want,
                            3 * 32 * 32 * sizeof *want);
        pc_image_close(&im);
    }
    free(want);
    pc_bundle_close(&b);
    pc_safetensors_close(s);
    static const struct {
        const char *folder, *tensors;
    } kinds[] = {
        {"llava_next_tiny", "pixel_values (2,3,3,32,32), image_sizes (2,2)"},
        {"llava_onevision_tiny", "pixel_values (2,2,3,32,32), image_sizes (2,2)"},
        {"qwen2_vl_tiny/preprocessor_config.json", "pixel_values (32,96), image_grid_thw (2,3)"},
        {"deepseek_vl_hybrid_tiny", "pixel_values (2,3,32,32), high_res_pixel_values (2,3,64,64)"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char name[128];
        snprintf(name, sizeof name, "goldens/%s", kinds[i].folder);
        const char *shared = shared_path(name);
        if (!shared) continue;
        r = run(NULL, "preprocess '%s%s%s' img/0.png img/1.png --out p.safetensors",
                *shared == '/' ? "" : here, *shared == '/' ? "" : "/", shared);
        expect(&r, 0, kinds[i].tensors, NULL);
        done(&r);
    }
    r = run(NULL, "preprocess '%s' img/none.png --out p.safetensors", model);
    expect(&r, 1, NULL, "none.png");
    done(&r);
    r = run(NULL, "preprocess '%s' img/0.png", model);
    expect(&r, 2, NULL, "--out");
    done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help_and_usage),  cmocka_unit_test(test_scenes),
        cmocka_unit_test(test_tokenizer_train), cmocka_unit_test(test_tokenize_and_back),
        cmocka_unit_test(test_render),          cmocka_unit_test(test_render_own),
        cmocka_unit_test(test_check),           cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_preprocess),
    };
    return cmocka_run_group_tests(tests, set_open, set_close);
}
