/*
 * test_template.c - each built-in template written out by hand, with its learned part in [[ ]]; the segments'
 * ids against those of the whole text; turns, prefixes and refusals.
 */
#include "data/text/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SYSTEM                                                                                     \
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives " \
    "helpful, detailed, and polite answers to the user's questions."

static pc_tokenizer *tok;

static const pc_message two_turns[] = {
    {PC_ROLE_USER, "<image>\nWhat is it?"},
    {PC_ROLE_ASSISTANT, "A cat."},
    {PC_ROLE_USER, "Is it red?"},
    {PC_ROLE_ASSISTANT, "no"},
};

static int32_t image_id(void)
{
    return pc_tokenizer_id(tok, "<image>");
}

static pc_rendered rendered(const char *name, const pc_message *m, int n, bool generate)
{
    pc_rendered r;
    const pc_template *t = pc_template_find(name);
    assert_non_null(t);
    if (pc_template_render(t, &r, tok, m, n, generate, image_id())) fail_msg("%s", pc_error_text());
    return r;
}

static void check(const char *name, const pc_message *m, int n, bool generate, const char *want)
{
    pc_rendered r = rendered(name, m, n, generate);
    char *text = pc_rendered_text(&r, tok, image_id());
    assert_string_equal(text, want);
    free(text);
    pc_rendered_close(&r);
}

static void test_texts(void **state)
{
    (void)state;
    check("vicuna_v1", two_turns, 4, false,
          "<s>" SYSTEM " USER: <image>\nWhat is it? ASSISTANT:[[ A cat.</s>]]USER: Is it red? "
          "ASSISTANT:[[ no</s>]]");
    check("vicuna_v1", two_turns, 1, true, "<s>" SYSTEM " USER: <image>\nWhat is it? ASSISTANT:");
    check("vicuna_v1", two_turns, 3, true,
          "<s>" SYSTEM " USER: <image>\nWhat is it? ASSISTANT:[[ A cat.</s>]]USER: Is it red? "
          "ASSISTANT:");
    check("plain", two_turns, 2, false, "<s><image>[[A cat.\n]]");
    check("plain", two_turns, 1, true, "<s><image>");
    check("chatml", two_turns, 2, false,
          "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\n"
          "What is it?<|im_end|>\n<|im_start|>assistant\n[[A cat.<|im_end|>]]\n");
    check("short", two_turns, 4, false,
          "<image> What is it?\n[[ A cat.</s>]] Is it red?\n[[ no</s>]]");
    check("short", two_turns, 1, true, "<image> What is it?\n");
}

#define VISION                                                                                     \
    "You are a helpful language and vision assistant. You are able to understand the visual "      \
    "content that the user provides, and assist the user with a variety of tasks using natural "   \
    "language."
#define HELPFUL "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

// The families' own, as their code writes them.
static void test_families(void **state)
{
    (void)state;
    check("llava_v1_original", two_turns, 4, false,
          "<s>" SYSTEM " USER: <image>\nWhat is it? ASSISTANT:[[ A cat.</s>]]USER: Is it red? "
          "ASSISTANT:[[ no</s>]]");
    check("llava_v1", two_turns, 1, true,
          "<s>A chat between a curious human and an artificial intelligence assistant. The "
          "assistant gives helpful, detailed, and polite answers to the human's questions. USER: "
          "<image>\nWhat is it? ASSISTANT:");
    check("llava_llama_2", two_turns, 4, false,
          "<s>[INST] <<SYS>>\n" VISION "\n<</SYS>>\n\n<image>\nWhat is it? [/INST][[ A cat. "
          "</s>]]<s>[INST] Is it red? [/INST][[ no </s>]]");
    check("llama2", two_turns, 3, true,
          "<s>[INST] <image>\nWhat is it? [/INST][[ A cat. </s>]]<s>[INST] Is it red? [/INST]");
    check("mistral_instruct", two_turns, 4, false,
          "<s>[INST] <image>\nWhat is it? [/INST][[ A cat. </s>]][INST] Is it red? [/INST][[ no "
          "</s>]]");
    check("chatml_direct", two_turns, 4, false,
          "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat is "
          "it?<|im_end|><|im_start|>assistant\n[[A cat.<|im_end|>]]<|im_start|>user\nIs it "
          "red?<|im_end|><|im_start|>assistant\n[[no<|im_end|>]]");
    check("llama3", two_turns, 2, false,
          "<s><|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is it?<|eot_id|>"
          "<|start_header_id|>assistant<|end_header_id|>\n\n[[A cat.<|eot_id|>]]");
    check("qwen", two_turns, 2, false,
          HELPFUL "<|im_start|>user\nPicture 1: <img><image></img>\nWhat is it?<|im_end|>\n"
                  "<|im_start|>assistant\n[[A cat.<|im_end|>]]\n");
    check("qwen2_vl", two_turns, 2, false,
          HELPFUL "<|im_start|>user\n<|vision_start|><image><|vision_end|>What is it?<|im_end|>\n"
                  "<|im_start|>assistant\n[[A cat.<|im_end|>]]\n");
    check("deepseek_vl", two_turns, 4, false,
          "<s>" VISION "\n\nUser: <image>What is it?\n\nAssistant:[[ A cat.<｜end▁of▁sentence｜>]]"
          "User: Is it red?\n\nAssistant:[[ no<｜end▁of▁sentence｜>]]");
    check("deepseek", two_turns + 2, 1, true, "<s>User: Is it red?\n\nAssistant:");
    const pc_message many[] = {{PC_ROLE_USER, "<image>\n<image>\nWhich? Not <image>\n"}};
    check("qwen", many, 1, true,
          HELPFUL "<|im_start|>user\nPicture 1: <img><image></img>\nPicture 2: "
                  "<img><image></img>\nWhich? Not Picture 3: <img><image></img>\n<|im_end|>\n"
                  "<|im_start|>assistant\n");
}

/* ---- a template that a model brings ---- */

static pc_template *opened(const char *source)
{
    pc_template *t = NULL;
    if (pc_template_open(&t, "own", source, strlen(source), NULL)) fail_msg("%s", pc_error_text());
    return t;
}

static void check_source(const char *source, const pc_message *m, int n, bool generate,
                         const char *want)
{
    pc_template *t = opened(source);
    pc_rendered r;
    if (pc_template_render(t, &r, tok, m, n, generate, image_id())) fail_msg("%s", pc_error_text());
    char *text = pc_rendered_text(&r, tok, image_id());
    assert_string_equal(text, want);
    free(text);
    pc_rendered_close(&r);
    pc_template_close(t);
}

#define OWN                                                                                        \
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}"      \
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define PARTS                                                                                      \
    "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{% if c.type == 'image' %}"      \
    "<image>{% else %}{{ c.text }}{% endif %}{% endfor %};{% endfor %}"                            \
    "{% if add_generation_prompt %}assistant: {% endif %}"

static void test_own_template(void **state)
{
    (void)state;
    // The tokenizer puts a BOS in front of texts; a template that writes none gets it too.
    check_source(OWN, two_turns, 4, false,
                 "<s><|im_start|>user\n<image>\nWhat is it?<|im_end|><|im_start|>assistant\n[[A "
                 "cat.<|im_end|>]]<|im_start|>user\nIs it red?<|im_end|><|im_start|>assistant\n"
                 "[[no<|im_end|>]]");
    check_source(OWN, two_turns, 1, true,
                 "<s><|im_start|>user\n<image>\nWhat is it?<|im_end|><|im_start|>assistant\n");
    // Contents in lists; no stop is written: it is added behind the last answer. The token " A"
    // lies across the border and belongs to the answer.
    check_source(PARTS, two_turns, 2, false,
                 "<s>user: <image>What is it?;assistant:[[ A cat.;</s>]]");
    check_source(PARTS, two_turns, 3, true,
                 "<s>user: <image>What is it?;assistant:[[ A cat.;]]user: Is it red?;assistant: ");
    // What does not nest: only the last answer is printed as it is.
    check_source(
        "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }} {% elif loop.last "
        "%}A {{ m.content }}</s>{% else %}B {{ m.content|upper }}</s>{% endif %}{% endfor %}",
        two_turns, 4, false, "<s>Q <image>\nWhat is it? B[[ A CAT.</s>]]Q Is it red? A[[ no</s>]]");
    pc_template *t = opened(OWN);
    assert_int_equal(pc_template_stop(t, tok), pc_tokenizer_id(tok, "<|im_end|>"));
    assert_string_equal(pc_template_text(t), OWN);
    assert_true(pc_template_is_source(OWN));
    assert_false(pc_template_is_source("vicuna_v1"));
    pc_template_close(t);
}

// Turns and first turns as the loader cuts them.
static void test_own_places(void **state)
{
    (void)state;
    pc_template *t = opened(OWN);
    pc_rendered all, one;
    assert_int_equal(pc_template_render(t, &all, tok, two_turns, 4, false, image_id()), PC_OK);
    assert_int_equal(pc_template_render(t, &one, tok, two_turns, 2, false, image_id()), PC_OK);
    assert_int_equal(all.turns, 2);
    assert_int_equal(all.turn_end[0], one.ids.count);
    assert_memory_equal(all.ids.list, one.ids.list, (size_t)one.ids.count * sizeof *one.ids.list);
    assert_int_equal(all.turn_end[1], all.ids.count);
    assert_int_equal(all.ids.list[all.first_turn - 1], image_id());
    assert_int_equal(all.images, 1);
    pc_rendered_close(&all);
    pc_rendered_close(&one);
    pc_template_close(t);
}

static void test_own_refusals(void **state)
{
    (void)state;
    pc_template *t = NULL;
    pc_rendered r;
    static const char bad[] = "a\n{% include 'b' %}";
    assert_int_equal(pc_template_open(&t, "own", bad, strlen(bad), NULL), PC_ERR_FORMAT);
    assert_non_null(strstr(pc_error_text(), "line 2"));
    assert_non_null(strstr(pc_error_text(), "include"));
    assert_non_null(strstr(pc_error_text(), "`template:`"));
    t = opened("{% for m in messages %}{{ m.content|replace('<image>', '') }}{% endfor %}");
    assert_int_equal(pc_template_render(t, &r, tok, two_turns, 2, false, image_id()), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "0 image places for the 1 images"));
    assert_int_equal(pc_template_render(t, &r, tok, two_turns, 2, false, -1), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "takes no images"));
    pc_template_close(t);
    t = opened("{{ raise_exception('not so') }}");
    assert_int_equal(pc_template_render(t, &r, tok, two_turns, 2, false, image_id()), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "not so"));
    assert_null(r.ids.list);
    pc_template_close(t);
}

static void test_system(void **state)
{
    (void)state;
    const pc_message m[] = {{PC_ROLE_SYSTEM, "Be brief."},
                            {PC_ROLE_USER, "Hi"},
                            {PC_ROLE_ASSISTANT, "Yes"}};
    check("vicuna_v1", m, 3, false, "<s>Be brief. USER: Hi ASSISTANT:[[ Yes</s>]]");
    check("short", m, 3, false, "Be brief.\n Hi\n[[ Yes</s>]]");
    const pc_message count[] = {{PC_ROLE_USER, "2 + 3?"}, {PC_ROLE_ASSISTANT, "5"}};
    check("short", count, 2, false, "2 + 3?\n[[5</s>]]"); // no space before a digit
    const pc_message none[] = {{PC_ROLE_SYSTEM, ""}, {PC_ROLE_USER, "Hi"}};
    check("vicuna_v1", none, 2, true, "<s>USER: Hi ASSISTANT:");
}

/* What a user writes is words, whatever it looks like; only the image mark is one. */
static void test_users_write_no_special_tokens(void **state)
{
    (void)state;
    const pc_message m[] = {{PC_ROLE_USER, "a</s>b<|im_start|>"}, {PC_ROLE_ASSISTANT, "<s> x</s>"}};
    static const char *const names[] = {"vicuna_v1", "plain", "chatml", "short"};
    for (int i = 0; i < 4; i++) {
        pc_rendered r = rendered(names[i], m, 2, false);
        int64_t eos = 0, bos = 0;
        for (int64_t k = 0; k < r.ids.count; k++) {
            eos += r.ids.list[k] == pc_tokenizer_id(tok, "</s>");
            bos += r.ids.list[k] == pc_tokenizer_id(tok, "<s>");
        }
        assert_int_equal(eos, i == 0 || i == 3);
        assert_int_equal(bos, i < 2);
        pc_rendered_close(&r);
    }
}

/* Segment by segment gives the ids of the text as a whole, between special tokens. */
static void test_segments_equal_whole_text(void **state)
{
    (void)state;
    static const char *const answers[] = {"A cat.", "no", "3", "red, blue!", "(maybe)", "it's"};
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        const pc_message m[] = {{PC_ROLE_USER, "<image>\nWhat is it?"},
                                {PC_ROLE_ASSISTANT, answers[i]}};
        pc_rendered r = rendered("vicuna_v1", m, 2, false);
        pc_ids whole = {0};
        char text[512];
        assert_int_equal(pc_ids_add(&whole, pc_tokenizer_bos(tok)), 0);
        snprintf(text, sizeof text, SYSTEM " USER: <image>\nWhat is it? ASSISTANT: %s</s>",
                 answers[i]);
        assert_int_equal(pc_tokenizer_encode(tok, &whole, text, strlen(text), true), 0);
        assert_int_equal(whole.count, r.ids.count);
        assert_memory_equal(whole.list, r.ids.list, (size_t)whole.count * sizeof *whole.list);
        pc_ids_close(&whole);
        pc_rendered_close(&r);
    }
}

/* The first turn's words begin behind the image; a turn ends behind its stop token. */
static void test_places_of_turns(void **state)
{
    (void)state;
    static const char *const names[] = {"vicuna_v1", "chatml", "short"};
    for (int i = 0; i < 3; i++) {
        pc_rendered r = rendered(names[i], two_turns, 4, false);
        assert_int_equal(r.images, 1);
        assert_int_equal(r.turns, 2);
        assert_int_equal(r.ids.list[r.first_turn - 1], image_id());
        assert_int_equal(r.turn_end[1], r.ids.count);
        const int32_t stop = pc_template_stop(pc_template_find(names[i]), tok);
        for (int t = 0; t < 2; t++) { // behind chatml's stop stands a newline
            const int64_t last = r.turn_end[t] - 1 - (i == 1);
            assert_int_equal(r.ids.list[last], stop);
            assert_true(r.supervised[last]);
        }
        for (int64_t k = 0; k < r.first_turn; k++) assert_false(r.supervised[k]);
        pc_rendered_close(&r);
    }
    pc_rendered r = rendered("plain", two_turns, 2, false);
    assert_int_equal(r.ids.list[r.ids.count - 1], pc_template_stop(pc_template_find("plain"), tok));
    assert_int_equal(r.first_turn, 2);
    pc_rendered_close(&r);
}

/* An invitation is how training went on: its ids are a beginning of the answered conversation's. */
static void test_invitation_is_a_prefix(void **state)
{
    (void)state;
    int n;
    const char *const *names = pc_template_names(&n);
    assert_int_equal(n, 15);
    for (int i = 0; i < n; i++) {
        pc_rendered asked = rendered(names[i], two_turns, 3, true),
                    told = rendered(names[i], two_turns, 4, false);
        assert_true(asked.ids.count < told.ids.count);
        assert_memory_equal(asked.ids.list, told.ids.list,
                            (size_t)asked.ids.count * sizeof *asked.ids.list);
        assert_true(told.supervised[asked.ids.count]); // and the next token is the first learned
        assert_false(told.supervised[asked.ids.count - 1] && i != 1);
        pc_rendered_close(&asked);
        pc_rendered_close(&told);
    }
}

static void refused(const char *name, const pc_tokenizer *t, const pc_message *m, int n,
                    int32_t image, const char *word)
{
    pc_rendered r;
    assert_int_equal(pc_template_render(pc_template_find(name), &r, t, m, n, false, image),
                     PC_ERR_INPUT);
    if (!strstr(pc_error_text(), word)) fail_msg("'%s' says nothing of %s", pc_error_text(), word);
    assert_null(r.ids.list);
}

static void test_refusals(void **state)
{
    (void)state;
    const pc_message wrong[] = {{PC_ROLE_ASSISTANT, "Me first."}, {PC_ROLE_USER, "Then I."}};
    const pc_message twice[] = {{PC_ROLE_USER, "a"}, {PC_ROLE_USER, "b"}};
    const pc_message only[] = {{PC_ROLE_SYSTEM, "s"}};
    refused("short", tok, wrong, 2, 0, "message 1 is the assistant's");
    refused("short", tok, twice, 2, 0, "message 2 is the user's");
    refused("short", tok, only, 1, 0, "without");
    refused("short", tok, two_turns, 2, -1, "takes no images");
    assert_null(pc_template_find("nonsense"));

    pc_tokenizer *bare = NULL; // without special tokens
    static const char *const texts[] = {"a"};
    assert_int_equal(pc_tokenizer_train(&bare, texts, 1, 256, NULL, 0), PC_OK);
    refused("vicuna_v1", bare, two_turns, 2, 0, "</s>");
    refused("chatml", bare, two_turns, 2, 0, "<|im_end|>");
    pc_tokenizer_close(bare);
    static const char *const half[] = {"<|im_end|>"};
    assert_int_equal(pc_tokenizer_train(&bare, texts, 1, 257, half, 1), PC_OK);
    refused("chatml", bare, two_turns, 2, 0, "<|im_start|>");
    pc_tokenizer_close(bare);
}

static int32_t image_id_of(const pc_tokenizer *t)
{
    static const char *const marks[] = {"<image>", "<|image_pad|>", "<image_placeholder>",
                                        "<imgpad>"};
    int32_t id = -1;
    for (int i = 0; i < 4 && id < 0; i++) id = pc_tokenizer_id(t, marks[i]);
    return id;
}

/* A tokenizer trained with a template's special tokens has what the template needs. */
static void test_specials_suffice(void **state)
{
    (void)state;
    int n;
    const char *const *names = pc_template_names(&n);
    for (int i = 0; i < n; i++) {
        static const char *const texts[] = {"What is it? A cat."};
        const pc_template *t = pc_template_find(names[i]);
        int count;
        const char *const *specials = pc_template_specials(t, &count);
        pc_tokenizer *own = NULL;
        pc_rendered r;
        assert_string_equal(pc_template_name(t), names[i]);
        assert_int_equal(pc_tokenizer_train(&own, texts, 1, 280, specials, count), PC_OK);
        assert_true(pc_tokenizer_pad(own) >= 0);
        assert_int_equal(pc_template_render(t, &r, own, two_turns, 4, true, image_id_of(own)),
                         PC_OK);
        pc_rendered_close(&r);
        pc_tokenizer_close(own);
    }
}

static int setup(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "What is it? A cat. Is it red? no yes USER: ASSISTANT: What is it? A cat. Is it red? no"};
    static const char *const specials[] = {"<image>",
                                           "<s>",
                                           "</s>",
                                           "<pad>",
                                           "<|im_start|>",
                                           "<|im_end|>",
                                           "<img>",
                                           "</img>",
                                           "<|vision_start|>",
                                           "<|vision_end|>",
                                           "<|start_header_id|>",
                                           "<|end_header_id|>",
                                           "<|eot_id|>",
                                           "<｜end▁of▁sentence｜>"};
    return pc_tokenizer_train(&tok, texts, 1, 310, specials, 14) != PC_OK;
}

static int teardown(void **state)
{
    (void)state;
    pc_tokenizer_close(tok);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_own_template),
        cmocka_unit_test(test_own_places),
        cmocka_unit_test(test_own_refusals),
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_users_write_no_special_tokens),
        cmocka_unit_test(test_segments_equal_whole_text),
        cmocka_unit_test(test_places_of_turns),
        cmocka_unit_test(test_invitation_is_a_prefix),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_specials_suffice),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
