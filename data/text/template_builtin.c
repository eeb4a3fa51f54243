/*
 * template_builtin.c - the built-in templates (spec: llava.md 4, 5; deepseek-vl.md 5; qwen-vl.md 2; tokenizers.md 8).
 * [[ ]] marks what is learned; S the system message, Q a question with its images, A an answer.
 *
 *   vicuna_v1         <s>S USER: Q ASSISTANT:[[ A</s>]]USER: Q ASSISTANT:[[ A</s>]]
 *   llava_v1          the same with another S
 *   plain             <s><image>[[A\n]]                   the user's words are dropped, the image stays
 *   chatml            <|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n
 *                     <|im_start|>assistant\n[[A<|im_end|>]]\n
 *   qwen              chatml; the n-th image is "Picture n: <img> image </img>\n"
 *   qwen2_vl          chatml; an image is <|vision_start|> image <|vision_end|>
 *   chatml_direct     chatml without the newlines behind <|im_end|>
 *   llava_llama_2     <s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST][[ A </s>]]<s>[INST] Q [/INST][[ A </s>]]
 *   llama2            the same, with a system message only where there is one
 *   mistral_instruct  the same without the later <s>
 *   llama3            <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>
 *                     <|start_header_id|>assistant<|end_header_id|>\n\n[[A<|eot_id|>]]
 *   deepseek_vl       <bos>S\n\nUser: Q\n\nAssistant:[[ A<eos>]]User: Q\n\nAssistant:
 *   deepseek          the same, with a system message only where there is one
 *   short             <image> Q\n[[ A</s>]] Q\n[[ A</s>]]    one or two tokens around a turn, for small models
 *
 * The newline of `plain` is a segment of its own: one token always, so that generation knows where to stop. In
 * `short` a text that begins with a letter has a space before it, so that a word at the beginning and within a
 * text is one and the same token; and the newline belongs to the question's segment, so that a tokenizer may have
 * one token for "?\n".
 */
#include "data/text/template_parts.h"

#include <stdio.h>
#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

// The text without white space at its ends.
static const char *trimmed(const char *text, size_t *size)
{
    *size = strlen(text);
    while (*size > 0 && is_blank(*text)) {
        text++;
        --*size;
    }
    while (*size > 0 && is_blank(text[*size - 1])) --*size;
    return text;
}

// The text behind image marks at its beginning, which become image places; first_turn moves behind them.
static pc_status take_leading_images(renderer *r, const char **text)
{
    pc_status st = PC_OK;
    while (!st && strncmp(*text, PC_IMAGE_MARK, strlen(PC_IMAGE_MARK)) == 0) {
        *text += strlen(PC_IMAGE_MARK);
        st = pc_write_image(r);
        r->out->first_turn = r->out->ids.count;
    }
    return st;
}

/* ---- vicuna_v1 ---- */

static pc_status vicuna_begin(renderer *r, const char *system)
{
    pc_status st = pc_write(r, system);
    return st ? st : pc_write_end(r, false);
}

static pc_status vicuna_user(renderer *r, const char *text, bool first)
{
    const bool behind_text = first && r->out->ids.count > (pc_tokenizer_bos(r->tok) >= 0);
    pc_status st = pc_write(r, behind_text ? " USER: " : "USER: ");
    if (!st && first) st = take_leading_images(r, &text);
    return st ? st : pc_write_with_images(r, text, strlen(text));
}

static pc_status vicuna_invite(renderer *r)
{
    const pc_rendered *out = r->out;
    const bool after_answer =
        r->used == 0 && out->turns > 0 && out->turn_end[out->turns - 1] == out->ids.count;
    pc_status st = pc_write(r, after_answer ? "ASSISTANT:" : " ASSISTANT:");
    return st ? st : pc_write_end(r, false);
}

static pc_status vicuna_answer(renderer *r, const char *text)
{
    pc_status st;
    if ((st = pc_write(r, " ")) || (st = pc_write(r, text)) || (st = pc_write_end(r, true)))
        return st;
    return pc_write_stop(r);
}

/* ---- plain ---- */

static pc_status plain_begin(renderer *r, const char *system)
{
    (void)r;
    (void)system;
    return PC_OK;
}

static pc_status plain_user(renderer *r, const char *text, bool first)
{
    pc_status st = PC_OK;
    for (const char *at = text; !st && (at = strstr(at, PC_IMAGE_MARK));
         at += strlen(PC_IMAGE_MARK))
        st = pc_write_image(r);
    if (first) r->out->first_turn = r->out->ids.count;
    return st;
}

static pc_status plain_invite(renderer *r)
{
    (void)r;
    return PC_OK;
}

static pc_status plain_answer(renderer *r, const char *text)
{
    pc_status st;
    if ((st = pc_write(r, text)) || (st = pc_write_end(r, true)) || (st = pc_write(r, "\n")))
        return st;
    return pc_write_end(r, true);
}

/* ---- chatml ---- */

static pc_status chatml_open(renderer *r, const char *role)
{
    pc_status st;
    if ((st = pc_write_token(r, "<|im_start|>", false)) || (st = pc_write(r, role))) return st;
    return pc_write(r, "\n");
}

static pc_status chatml_close(renderer *r, bool supervised)
{
    pc_status st;
    if ((st = pc_write_token(r, "<|im_end|>", supervised)) || (st = pc_write(r, "\n"))) return st;
    return pc_write_end(r, false);
}

static pc_status chatml_begin(renderer *r, const char *system)
{
    pc_status st;
    if ((st = chatml_open(r, "system")) || (st = pc_write(r, system))) return st;
    return chatml_close(r, false);
}

static pc_status chatml_user(renderer *r, const char *text, bool first)
{
    pc_status st = chatml_open(r, "user");
    if (!st && first) st = take_leading_images(r, &text);
    if (!st) st = pc_write_with_images(r, text, strlen(text));
    return st ? st : chatml_close(r, false);
}

static pc_status chatml_invite(renderer *r)
{
    pc_status st = chatml_open(r, "assistant");
    return st ? st : pc_write_end(r, false);
}

static pc_status chatml_answer(renderer *r, const char *text)
{
    pc_status st;
    if ((st = pc_write(r, text)) || (st = pc_write_end(r, true))) return st;
    return chatml_close(r, true);
}

/* ---- short ---- */

static pc_status short_begin(renderer *r, const char *system)
{
    pc_status st;
    if (!*system) return PC_OK;
    if ((st = pc_write(r, system)) || (st = pc_write(r, "\n"))) return st;
    return pc_write_end(r, false);
}

// The space before a word. A digit is a token by itself and would only pay for one.
static pc_status say_space(renderer *r, const char *text, size_t size)
{
    const unsigned char c = size ? (unsigned char)*text : 0;
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
    return letter ? pc_write(r, " ") : PC_OK;
}

static pc_status short_user(renderer *r, const char *text, bool first)
{
    size_t size;
    text = trimmed(text, &size);
    if (first) {
        const char *rest = text;
        pc_status st = take_leading_images(r, &rest);
        if (st) return st;
        size -= (size_t)(rest - text);
        text = rest;
    }
    while (size > 0 && is_blank(*text)) { // the newline that stands behind the mark
        text++;
        size--;
    }
    pc_status st = say_space(r, text, size);
    return st ? st : pc_write_with_images(r, text, size);
}

static pc_status short_invite(renderer *r)
{
    pc_status st = pc_write(r, "\n");
    return st ? st : pc_write_end(r, false);
}

static pc_status short_answer(renderer *r, const char *text)
{
    size_t size;
    text = trimmed(text, &size);
    pc_status st;
    if ((st = say_space(r, text, size)) || (st = pc_write_text(r, text, size)) ||
        (st = pc_write_end(r, true)))
        return st;
    return pc_write_stop(r);
}

/* ---- qwen, qwen2_vl, chatml_direct: other images, other ends ---- */

// An image, in the template's own wrapping; `r->pictures` counts them.
typedef pc_status picture(renderer *r);

// Words with images; the newline behind an image mark is the data set's and goes.
static pc_status say_pictures(renderer *r, const char *text, size_t size, picture *one)
{
    const char *end = text + size;
    pc_status st = PC_OK;
    while (text < end && !st) {
        const char *at = memmem(text, (size_t)(end - text), PC_IMAGE_MARK, strlen(PC_IMAGE_MARK));
        st = pc_write_text(r, text, (size_t)((at ? at : end) - text));
        if (!at || st) break;
        r->pictures++;
        st = one(r);
        text = at + strlen(PC_IMAGE_MARK);
        if (text < end && *text == '\n') text++;
    }
    return st;
}

// The same; first_turn moves behind images that the first question begins with.
static pc_status say_question(renderer *r, const char *text, size_t size, bool first, picture *one)
{
    const size_t mark = strlen(PC_IMAGE_MARK);
    pc_status st = PC_OK;
    while (!st && first && size >= mark && !memcmp(text, PC_IMAGE_MARK, mark)) {
        size_t step = mark;
        if (step < size && text[step] == '\n') step++;
        st = say_pictures(r, text, step, one);
        if (!st) st = pc_write_end(r, false);
        r->out->first_turn = r->out->ids.count;
        text += step;
        size -= step;
    }
    return st ? st : say_pictures(r, text, size, one);
}

static pc_status picture_qwen(renderer *r)
{
    char name[40];
    pc_status st;
    snprintf(name, sizeof name, "Picture %lld: ", (long long)r->pictures);
    if ((st = pc_write(r, name)) || (st = pc_write_token(r, "<img>", false)) ||
        (st = pc_write_image(r)) || (st = pc_write_token(r, "</img>", false)))
        return st;
    return pc_write(r, "\n");
}

static pc_status picture_qwen2(renderer *r)
{
    pc_status st;
    if ((st = pc_write_token(r, "<|vision_start|>", false)) || (st = pc_write_image(r))) return st;
    return pc_write_token(r, "<|vision_end|>", false);
}

static pc_status qwen_user(renderer *r, const char *text, bool first)
{
    pc_status st = chatml_open(r, "user");
    if (!st) st = say_question(r, text, strlen(text), first, picture_qwen);
    return st ? st : chatml_close(r, false);
}

static pc_status qwen2_user(renderer *r, const char *text, bool first)
{
    pc_status st = chatml_open(r, "user");
    if (!st) st = say_question(r, text, strlen(text), first, picture_qwen2);
    return st ? st : chatml_close(r, false);
}

static pc_status direct_begin(renderer *r, const char *system)
{
    pc_status st;
    if ((st = chatml_open(r, "system")) || (st = pc_write(r, system))) return st;
    return pc_write_token(r, "<|im_end|>", false);
}

static pc_status direct_user(renderer *r, const char *text, bool first)
{
    pc_status st = chatml_open(r, "user");
    if (!st && first) st = take_leading_images(r, &text);
    if (!st) st = pc_write_with_images(r, text, strlen(text));
    return st ? st : pc_write_token(r, "<|im_end|>", false);
}

static pc_status direct_answer(renderer *r, const char *text)
{
    pc_status st;
    if ((st = pc_write(r, text)) || (st = pc_write_end(r, true))) return st;
    return pc_write_token(r, "<|im_end|>", true);
}

/* ---- llama2, llava_llama_2, mistral_instruct ---- */

static pc_status inst_begin(renderer *r, const char *system)
{
    r->system = system; // said within the first turn
    return PC_OK;
}

static pc_status inst_user(renderer *r, const char *text, bool first)
{
    size_t size;
    pc_status st;
    text = trimmed(text, &size);
    if ((st = pc_write(r, "[INST] "))) return st;
    if (first && *r->system)
        if ((st = pc_write(r, "<<SYS>>\n")) || (st = pc_write(r, r->system)) ||
            (st = pc_write(r, "\n<</SYS>>\n\n")))
            return st;
    const char *rest = text;
    if (first && (st = take_leading_images(r, &rest))) return st;
    return pc_write_with_images(r, rest, size - (size_t)(rest - text));
}

// Every turn but the first has a BOS of its own.
static pc_status llama2_user(renderer *r, const char *text, bool first)
{
    const int32_t bos = pc_tokenizer_bos(r->tok);
    pc_status st = first || bos < 0 ? PC_OK : pc_write_id(r, bos, false);
    return st ? st : inst_user(r, text, first);
}

static pc_status inst_invite(renderer *r)
{
    pc_status st = pc_write(r, " [/INST]");
    return st ? st : pc_write_end(r, false);
}

static pc_status inst_answer(renderer *r, const char *text)
{
    size_t size;
    pc_status st;
    text = trimmed(text, &size);
    if ((st = pc_write(r, " ")) || (st = pc_write_text(r, text, size)) || (st = pc_write(r, " ")) ||
        (st = pc_write_end(r, true)))
        return st;
    return pc_write_stop(r);
}

/* ---- llama3 ---- */

static pc_status llama3_open(renderer *r, const char *role)
{
    pc_status st;
    if ((st = pc_write_token(r, "<|start_header_id|>", false)) || (st = pc_write(r, role)) ||
        (st = pc_write_token(r, "<|end_header_id|>", false)))
        return st;
    return pc_write(r, "\n\n");
}

static pc_status llama3_begin(renderer *r, const char *system)
{
    size_t size;
    pc_status st;
    system = trimmed(system, &size);
    if (!size) return PC_OK;
    if ((st = llama3_open(r, "system")) || (st = pc_write_text(r, system, size))) return st;
    return pc_write_token(r, "<|eot_id|>", false);
}

static pc_status llama3_user(renderer *r, const char *text, bool first)
{
    size_t size;
    pc_status st = llama3_open(r, "user");
    const char *rest = text = trimmed(text, &size);
    if (!st && first) st = take_leading_images(r, &rest);
    if (!st) st = pc_write_with_images(r, rest, size - (size_t)(rest - text));
    return st ? st : pc_write_token(r, "<|eot_id|>", false);
}

static pc_status llama3_invite(renderer *r)
{
    pc_status st = llama3_open(r, "assistant");
    return st ? st : pc_write_end(r, false);
}

static pc_status llama3_answer(renderer *r, const char *text)
{
    size_t size;
    pc_status st;
    text = trimmed(text, &size);
    if ((st = pc_write_text(r, text, size)) || (st = pc_write_end(r, true))) return st;
    return pc_write_token(r, "<|eot_id|>", true);
}

/* ---- deepseek_vl, deepseek ---- */

static pc_status deepseek_begin(renderer *r, const char *system)
{
    pc_status st;
    if (!*system) return PC_OK;
    if ((st = pc_write(r, system)) || (st = pc_write(r, "\n\n"))) return st;
    return pc_write_end(r, false);
}

static pc_status picture_bare(renderer *r)
{
    return pc_write_image(r);
}

static pc_status deepseek_user(renderer *r, const char *text, bool first)
{
    size_t size;
    pc_status st = pc_write(r, "User: ");
    text = trimmed(text, &size);
    if (!st) st = say_question(r, text, size, first, picture_bare);
    return st ? st : pc_write(r, "\n\n");
}

static pc_status deepseek_invite(renderer *r)
{
    pc_status st = pc_write(r, "Assistant:");
    return st ? st : pc_write_end(r, false);
}

static pc_status deepseek_answer(renderer *r, const char *text)
{
    size_t size;
    pc_status st;
    text = trimmed(text, &size);
    if ((st = pc_write(r, " ")) || (st = pc_write_text(r, text, size)) ||
        (st = pc_write_end(r, true)))
        return st;
    return pc_write_stop(r);
}

/* ---- the table ---- */

#define OF_A_USER                                                                                  \
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives " \
    "helpful, detailed, and polite answers to the user's questions."
#define OF_A_HUMAN                                                                                 \
    "A chat between a curious human and an artificial intelligence assistant. The assistant "      \
    "gives helpful, detailed, and polite answers to the human's questions."
#define OF_VISION                                                                                  \
    "You are a helpful language and vision assistant. You are able to understand the visual "      \
    "content that the user provides, and assist the user with a variety of tasks using natural "   \
    "language."
#define VICUNA                                                                                     \
    .specials = {PC_IMAGE_MARK, "<s>", "</s>", "<pad>"}, .special_count = 4, .bos = true,          \
    .begin = vicuna_begin, .user = vicuna_user, .invite = vicuna_invite, .answer = vicuna_answer,  \
    .unanswered = " ", .spaced = true
#define INST                                                                                       \
    .specials = {PC_IMAGE_MARK, "<s>", "</s>", "<pad>"}, .special_count = 4, .bos = true,          \
    .begin = inst_begin, .invite = inst_invite, .answer = inst_answer, .unanswered = " [/INST]"
#define CHATML                                                                                     \
    .system = "You are a helpful assistant.", .stop = "<|im_end|>", .begin = chatml_begin,         \
    .invite = chatml_invite, .answer = chatml_answer
#define DEEPSEEK                                                                                   \
    .specials = {"<image_placeholder>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",        \
                 "<pad>"},                                                                         \
    .special_count = 4, .stop = "<｜end▁of▁sentence｜>", .bos = true, .begin = deepseek_begin,     \
    .user = deepseek_user, .invite = deepseek_invite, .answer = deepseek_answer

static const pc_template templates[] = {
    {.name = "vicuna_v1", .system = OF_A_USER, VICUNA},
    {.name = "plain",
     .specials = {PC_IMAGE_MARK, "<s>", "</s>", "<pad>"},
     .special_count = 4,
     .bos = true,
     .stop = "\n",
     .begin = plain_begin,
     .user = plain_user,
     .invite = plain_invite,
     .answer = plain_answer},
    {.name = "chatml",
     .specials = {PC_IMAGE_MARK, "<|im_start|>", "<|im_end|>", "<|endoftext|>"},
     .special_count = 4,
     .user = chatml_user,
     CHATML},
    {.name = "short",
     .specials = {PC_IMAGE_MARK, "</s>", "<pad>"},
     .special_count = 3,
     .begin = short_begin,
     .user = short_user,
     .invite = short_invite,
     .answer = short_answer},
    {.name = "llava_v1", .system = OF_A_HUMAN, VICUNA},
    {.name = "llava_v1_original", .system = OF_A_USER, VICUNA},
    {.name = "llava_llama_2", .system = OF_VISION, .user = llama2_user, INST},
    {.name = "llama2", .user = llama2_user, INST},
    {.name = "mistral_instruct", .user = inst_user, INST},
    {.name = "chatml_direct",
     .specials = {PC_IMAGE_MARK, "<|im_start|>", "<|im_end|>", "<|endoftext|>"},
     .special_count = 4,
     .system = "Answer the questions.",
     .stop = "<|im_end|>",
     .begin = direct_begin,
     .user = direct_user,
     .invite = chatml_invite,
     .answer = direct_answer},
    {.name = "llama3",
     .specials = {PC_IMAGE_MARK, "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                  "<|eot_id|>", "<pad>"},
     .special_count = 6,
     .bos = true,
     .stop = "<|eot_id|>",
     .begin = llama3_begin,
     .user = llama3_user,
     .invite = llama3_invite,
     .answer = llama3_answer},
    {.name = "qwen",
     .specials = {"<img>", "</img>", "<imgpad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"},
     .special_count = 6,
     .user = qwen_user,
     CHATML},
    {.name = "qwen2_vl",
     .specials = {"<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|im_start|>",
                  "<|im_end|>", "<|endoftext|>"},
     .special_count = 6,
     .user = qwen2_user,
     CHATML},
    {.name = "deepseek_vl", .system = OF_VISION, DEEPSEEK},
    {.name = "deepseek", DEEPSEEK},
};
enum { TEMPLATES = (int)(sizeof templates / sizeof *templates) };

const pc_template *pc_builtin_templates(int *count)
{
    *count = TEMPLATES;
    return templates;
}

const char *const *pc_template_names(int *count)
{
    static const char *const names[TEMPLATES] = {"vicuna_v1",        "plain",
                                                 "chatml",           "short",
                                                 "llava_v1",         "llava_v1_original",
                                                 "llava_llama_2",    "llama2",
                                                 "mistral_instruct", "chatml_direct",
                                                 "llama3",           "qwen",
                                                 "qwen2_vl",         "deepseek_vl",
                                                 "deepseek"};
    *count = TEMPLATES;
    return names;
}
