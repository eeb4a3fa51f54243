/*
 * main.c - percept: the commands that answer.
 */
#include "infer/infer.h"
#include "model/core/cli.h"

int main(int argc, char **argv)
{
    static const pc_cli_command commands[] = {
        {"ask", "one answer to one question about an image", ask_main},
        {"chat", "a conversation in the terminal", chat_main},
        {"embed", "unit vectors of images and texts", embed_main},
        {"classify", "which of these labels fits an image", classify_main},
        {"eval", "how good is a model: vqa, pope, retrieval, classify", eval_main},
        {"logits", "the forward pass on given tensors, for comparisons", logits_main},
    };
    const pc_cli_program program = {
        .name = "percept",
        .about = "Asks and judges vision-language models. MODEL is a native checkpoint (.h5) or a "
                 "Hugging Face "
                 "directory as published: nothing has to be converted first.",
        .commands = commands,
        .command_count = (int)(sizeof commands / sizeof commands[0]),
        .examples =
            (const char *const[]){
                "percept ask best.h5 --image photo.png \"how many circles are there?\"",
                "percept eval best.h5 vqa --data qa-test.jsonl --report report.html", NULL},
    };
    return pc_cli_main(&program, argc, argv);
}
