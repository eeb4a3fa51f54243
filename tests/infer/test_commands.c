/*
 * test_commands.c - percept as people run it: what it prints, where, with which exit status; that the figures of
 * `eval` follow from the answers it lists; that bad input ends in a message which names the place. The program is
 * the one in $PERCEPT_BIN.
 */
#include "checkpoints/safetensors.h"
#include "data/metrics/pope.h"
#include "data/metrics/vqa.h"
#include "model/core/file.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_model.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

typedef struct ran {
    int status;
    char *out, *err;
} ran;

static ran last;

static char *contents(const char *name)
{
    char *text;
    size_t size;
    if (pc_file_read(&text, &size, scratch_path(name), 1 << 26)) abort();
    return text;
}

// Runs `percept ARGS` in the scratch folder; what it printed is in `last` until the next run.
static int percept(const char *fmt, ...) PC_PRINTF(1, 2);
static int percept(const char *fmt, ...)
{
    char args[2048], line[8192];
    va_list list;
    const char *bin = getenv("PERCEPT_BIN");
    char full[4096];

    if (!realpath(bin ? bin : "build/bin", full)) abort();
    va_start(list, fmt);
    vsnprintf(args, sizeof args, fmt, list);
    va_end(list);
    snprintf(line, sizeof line, "cd '%s' && '%s/percept' %s >stdout 2>stderr", scratch_path(""),
             full, args);
    free(last.out);
    free(last.err);
    const int code = system(line);
    last = (ran){WIFEXITED(code) ? WEXITSTATUS(code) : -1, contents("stdout"), contents("stderr")};
    return last.status;
}

static bool said(const char *text)
{
    if (strstr(last.out, text)) return true;
    printf("  stdout lacks \"%s\":\n%.400s\n", text, last.out);
    return false;
}

static bool complained(const char *text)
{
    if (strstr(last.err, text)) return true;
    printf("  stderr lacks \"%s\":\n%.400s\n", text, last.err);
    return false;
}

static void write_text(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

// ---- help --------------------------------------------------------------------------------------

static void help(void)
{
    static const char *const commands[] = {"ask", "chat", "embed", "classify", "eval", "logits"};

    CHECK(percept("--help") == 0 && said("Usage: percept"));
    CHECK(percept("--version") == 0 && said("percept"));
    CHECK(percept("asl x.h5 hi") == 2 && complained("ask"));
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        CHECK(percept("%s --help", commands[i]) == 0 && said("Examples:") && said(commands[i]));
        CHECK(percept("%s --version", commands[i]) == 0);
        CHECK(percept("%s", commands[i]) == 2);
        CHECK(percept("%s vlm.h5 x --thraeds 2", commands[i]) == 2 && complained("threads"));
        CHECK(*last.out == '\0');
    }
}

// ---- ask ---------------------------------------------------------------------------------------

static void ask(void)
{
    CHECK(percept("ask vlm.h5 --image image0.png \"What is it?\" --max-tokens 8") == 0);
    char *plain = strdup(last.out);
    CHECK(percept("ask vlm.h5 --image image0.png \"What is it?\" --max-tokens 8 --json") == 0);
    json_t *o = json_loads(last.out, 0, NULL);
    CHECK(json_is_string(json_object_get(o, "answer")));
    CHECK(!strncmp(plain, json_string_value(json_object_get(o, "answer")),
                   strlen(json_string_value(json_object_get(o, "answer")))));
    CHECK(json_integer_value(json_object_get(o, "tokens")) <= 8);
    json_decref(o);
    free(plain);

    CHECK(percept("ask vlm.h5 --image image0.png --image image1.png \"What is it?\"") == 1);
    CHECK(complained("takes one"));
    CHECK(percept("ask vlm.h5 --greedy --temperature 1 hi") == 2 && complained("--greedy"));
    CHECK(percept("ask vlm.h5 --top-k 3 hi") == 2 && complained("--temperature"));
    CHECK(percept("ask vlm.h5 --image nowhere.png hi") == 1 && complained("nowhere.png"));
    CHECK(percept("ask clip.h5 hi") == 1 && complained("two-tower"));
    CHECK(percept("ask nowhere.h5 hi") == 1 && complained("nowhere.h5"));
    write_text("broken.h5", "not a checkpoint");
    CHECK(percept("ask broken.h5 hi") == 1 && complained("broken.h5"));
    write_text("broken.png", "\x89PNG\r\n\x1a\nand no more");
    CHECK(percept("ask vlm.h5 --image broken.png hi") == 1 && complained("broken.png"));
}

// ---- eval --------------------------------------------------------------------------------------

static void write_questions(void)
{
    static const char *const answers[] = {"red", "No.", "two", "a cat"};
    char *qa = calloc(1, 1 << 14), *pope = calloc(1, 1 << 14);

    for (int i = 0; i < 24; i++) {
        sprintf(qa + strlen(qa),
                "{\"question_id\": %d, \"image\": \"image%d.png\", \"question\": \"Is it %s?\", "
                "\"answer\": "
                "\"%s\", \"type\": \"%s\"}\n",
                100 + i, i % TINY_IMAGES, i % 2 ? "red" : "large", answers[i % 4],
                i % 3 ? "b" : "a");
        sprintf(pope + strlen(pope),
                "{\"question_id\": %d, \"image\": \"image%d.png\", \"text\": \"Is it red?\", "
                "\"label\": "
                "\"%s\"}\n",
                i, i % TINY_IMAGES, i % 2 ? "yes" : "no");
    }
    write_text("qa.jsonl", qa);
    write_text("pope.jsonl", pope);
    free(qa);
    free(pope);
}

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

// The listed answers give the same figures when they are counted here.
static void recount(const json_t *vqa, const json_t *pope, const char *lines)
{
    int64_t n = 0, right = 0, blind = 0, yes = 0, good = 0, asked = 0;
    char *copy = strdup(lines), *save = NULL;

    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *o = json_loads(line, 0, NULL);
        const char *answer = json_string_value(json_object_get(o, "answer"));
        const char *truth = json_string_value(json_object_get(o, "truth"));
        if (!strcmp(json_string_value(json_object_get(o, "suite")), "vqa")) {
            CHECK(json_integer_value(json_object_get(o, "question_id")) == 100 + n);
            n++;
            right += pc_vqa_exact(answer, truth);
            blind += pc_vqa_exact(json_string_value(json_object_get(o, "blind")), truth);
        } else {
            CHECK(json_integer_value(json_object_get(o, "question_id")) == asked);
            asked++;
            yes += pc_pope_yes(answer);
            good += pc_pope_yes(answer) == !strcmp(truth, "yes");
        }
        json_decref(o);
    }
    free(copy);
    CHECK(n == 24 && asked == 24);
    CHECK(fabs(number(vqa, "accuracy") - (double)right / 24.0) < 1e-12);
    CHECK(fabs(number(vqa, "blind") - (double)blind / 24.0) < 1e-12);
    CHECK(fabs(number(pope, "accuracy") - (double)good / 24.0) < 1e-12);
    CHECK(fabs(number(pope, "yes_ratio") - (double)yes / 24.0) < 1e-12);
}

static void eval_questions(void)
{
    write_questions();
    CHECK(percept("eval vlm.h5 vqa=qa.jsonl pope=pope.jsonl --json --answers answers.jsonl "
                  "--report r.html "
                  "--max-tokens 4") == 0);
    json_t *head = json_loads(last.out, 0, NULL);
    const json_t *results = json_object_get(head, "results");
    const json_t *vqa = json_array_get(results, 0), *pope = json_array_get(results, 1);
    char *lines = contents("answers.jsonl"), *page = contents("r.html");

    CHECK(json_array_size(results) == 2);
    recount(vqa, pope, lines);
    CHECK(number(vqa, "count") == 24.0 && json_object_size(json_object_get(vqa, "types")) == 2);
    CHECK(number(json_object_get(json_object_get(vqa, "types"), "a"), "count") == 8.0);
    CHECK(fabs(number(vqa, "commonest") - 6.0 / 24.0) < 0.05); // four truths, each as often
    CHECK(strlen(json_string_value(json_object_get(vqa, "data_sha256"))) == 64);
    CHECK(!strcmp(json_string_value(json_object_get(vqa, "parser")), PC_VQA_PARSER));
    CHECK(!strcmp(json_string_value(json_object_get(json_object_get(vqa, "prompt"), "template")),
                  "short"));
    CHECK(strstr(page, "data:image/png;base64,") && strstr(page, "Is it red?"));
    CHECK(!strstr(page, "http") && !strstr(page, "<script")); // self-contained
    free(lines);
    free(page);
    json_decref(head);

    CHECK(percept("eval vlm.h5 pope=pope.jsonl pope=pope.jsonl --no-blind") == 0 &&
          said("mean F1"));
    CHECK(percept("eval vlm.h5 vqa --data qa.jsonl --samples 5 --no-blind") == 0 && said("all"));
    CHECK(!strstr(last.out, "without the image"));
    CHECK(percept("eval vlm.h5 vqa") == 2 && complained("--data"));
    CHECK(percept("eval vlm.h5 vqua=qa.jsonl") == 2 && complained("vqa"));
    CHECK(percept("eval clip.h5 vqa=qa.jsonl") == 1 && complained("vqa"));
    CHECK(percept("eval vlm.h5 vqa=nowhere.jsonl") == 1 && complained("nowhere.jsonl"));
    write_text("bad.jsonl",
               "{\"question_id\": 1, \"image\": \"image0.png\", \"question\": \"Is it?\"}\n");
    CHECK(percept("eval vlm.h5 vqa=bad.jsonl") == 1 && complained("bad.jsonl:1") &&
          complained("answer"));
    write_text("away.jsonl",
               "{\"question_id\": 1, \"image\": \"../x.png\", \"question\": \"Is it?\", "
               "\"answer\": \"no\"}\n");
    CHECK(percept("eval vlm.h5 vqa=away.jsonl") == 1 && complained("away.jsonl:1"));
    CHECK(percept("eval vlm.h5 pope=qa.jsonl") == 1 && complained("yes and no"));
}

static void eval_towers(void)
{
    char *captions = calloc(1, 1 << 14), *labels = calloc(1, 1 << 14);

    for (int i = 0; i < TINY_IMAGES; i++) {
        sprintf(captions + strlen(captions),
                "{\"image\": \"image%d.png\", \"captions\": [\"a cat number %d\", \"it is %d\"]}\n",
                i, i, i);
        sprintf(labels + strlen(labels), "{\"image\": \"image%d.png\", \"class\": \"%s\"}\n", i,
                i % 2 ? "cat" : "dog");
    }
    write_text("captions.jsonl", captions);
    write_text("labels.jsonl", labels);
    write_text("classes.json", "[\"dog\", {\"class\": \"cat\"}, {\"name\": \"two\"}]");
    free(captions);
    free(labels);

    CHECK(percept(
              "eval clip.h5 retrieval=captions.jsonl classify=labels.jsonl --classes classes.json "
              "--json --report r.html") == 0);
    json_t *head = json_loads(last.out, 0, NULL);
    const json_t *results = json_object_get(head, "results");
    const json_t *text = json_object_get(json_array_get(results, 0), "text_to_image");
    CHECK(number(text, "queries") == 12.0 && number(text, "candidates") == 6.0);
    CHECK(fabs(number(text, "chance_r1") - 1.0 / 6.0) < 1e-9 && number(text, "r10") == 1.0);
    CHECK(number(json_array_get(results, 1), "classes") == 3.0);
    CHECK(number(json_array_get(results, 1), "classes_that_occur") == 2.0);
    CHECK(number(json_array_get(results, 1), "top5") == 1.0);
    json_decref(head);

    CHECK(percept("eval clip.h5 classify=labels.jsonl --template \"no place\"") == 1 &&
          complained("{}"));
    write_text("classes.txt", "dog\ntwo\n");
    CHECK(percept("eval clip.h5 classify=labels.jsonl --classes classes.txt") == 1 &&
          complained("labels.jsonl:2") && complained("cat"));
    CHECK(percept("eval clip.h5 retrieval=labels.jsonl") == 1);
}

// ---- embed and classify ------------------------------------------------------------------------

static void embed(void)
{
    pc_safetensors *s;

    CHECK(percept("embed clip.h5 image0.png --text \"a cat\" --text \"a dog\"") == 0);
    int rows = 0;
    char *copy = strdup(last.out), *save = NULL;
    for (char *line = strtok_r(copy, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save), rows++) {
        json_t *o = json_loads(line, 0, NULL), *v = json_object_get(o, "embedding");
        double norm = 0.0;
        for (size_t i = 0; i < json_array_size(v); i++)
            norm += pow(json_number_value(json_array_get(v, i)), 2.0);
        CHECK(json_array_size(v) == 16 && fabs(norm - 1.0) < 1e-5);
        json_decref(o);
    }
    free(copy);
    CHECK(rows == 3);
    write_text("texts.txt", "a cat\na dog\n\ntwo\n");
    CHECK(
        percept(
            "embed clip.h5 --image image0.png image1.png --texts texts.txt --out e.safetensors") ==
        0);
    CHECK(!pc_safetensors_open(&s, scratch_path("e.safetensors")));
    CHECK(pc_safetensors_find(s, "image_embeds")->dim[0] == 2);
    CHECK(pc_safetensors_find(s, "text_embeds")->dim[0] == 4);
    pc_safetensors_close(s);

    CHECK(percept("classify clip.h5 image0.png image1.png --label cat --label dog --json") == 0);
    json_t *o = json_loads(last.out, JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *labels = json_object_get(o, "labels");
    const double p = number(json_array_get(labels, 0), "probability");
    CHECK(json_array_size(labels) == 2 && p >= 0.5 &&
          fabs(p + number(json_array_get(labels, 1), "probability") - 1.0) < 1e-9);
    json_decref(o);
    CHECK(percept("classify clip.h5 image0.png --label cat") == 2 && complained("two or more"));
    CHECK(percept("classify vlm.h5 image0.png --label cat --label dog") == 1);
}

// ---- logits ------------------------------------------------------------------------------------

static void write_inputs(const char *name, int64_t T, const int32_t *ids, const int32_t *mask)
{
    const pc_st_out list[] = {
        {.name = "input_ids", .dtype = PC_I32, .rank = 2, .dim = {1, T}, .data = ids},
        {.name = "attention_mask", .dtype = PC_I32, .rank = 2, .dim = {1, T}, .data = mask},
    };
    if (pc_safetensors_write(scratch_path(name), list, 2, NULL)) abort();
}

static void logits(void)
{
    const int32_t ids[] = {5, 6, 7, 8}, ones[] = {1, 1, 1, 1}, hole[] = {1, 0, 1, 1};
    const int32_t far[] = {5, 6, 99999, 8};

    write_inputs("in.safetensors", 4, ids, ones);
    CHECK(percept("logits vlm.h5 --inputs in.safetensors --out out.safetensors --taps") == 0);
    pc_safetensors *s;
    CHECK(!pc_safetensors_open(&s, scratch_path("out.safetensors")));
    const pc_st_entry *e = pc_safetensors_find(s, "logits");
    CHECK(e && e->rank == 3 && e->dim[1] == 4 && pc_safetensors_find(s, "decoder.hidden_states.2"));
    CHECK(!pc_safetensors_find(s, "loss")); // no labels were given
    pc_safetensors_close(s);

    write_inputs("hole.safetensors", 4, ids, hole);
    CHECK(percept("logits vlm.h5 --inputs hole.safetensors --out o.safetensors") == 1 &&
          complained("attention_mask"));
    write_inputs("far.safetensors", 4, far, ones);
    CHECK(percept("logits vlm.h5 --inputs far.safetensors --out o.safetensors") == 1 &&
          complained("99999") && complained("(0,2)"));
    CHECK(!pc_file_exists(scratch_path("o.safetensors")));
    write_text("short.safetensors", "\x08");
    CHECK(percept("logits vlm.h5 --inputs short.safetensors --out o.safetensors") == 1 &&
          complained("short.safetensors"));
    CHECK(percept("logits vlm.h5 --inputs in.safetensors") == 2 && complained("--out"));
    CHECK(percept("logits vlm.h5 --inputs in.safetensors --out nowhere/o.safetensors") == 1);
}

int main(void)
{
    scratch_open();
    tiny_models("short", 1);
    help();
    ask();
    eval_questions();
    eval_towers();
    embed();
    logits();
    free(last.out);
    free(last.err);
    scratch_close();
    return check_report("percept's commands");
}
