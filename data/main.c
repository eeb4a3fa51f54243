/*
 * main.c - percept-data: what a model sees, made and looked at.
 */
#include "data/commands/commands.h"

int main(int argc, char **argv)
{
    static const pc_cli_command commands[] = {
        {"scenes", "draws the embedded data set", data_scenes},
        {"check", "reads every row and image before compute is spent", data_check},
        {"tokenizer train", "a byte-level BPE of one's own", data_tokenizer_train},
        {"tokenize", "texts to token ids, and back", data_tokenize},
        {"render", "conversations through a chat template", data_render},
        {"preprocess", "pixel values exactly as the model sees them", data_preprocess},
    };
    static const char *const examples[] = {
        "percept-data scenes build/scenes",
        "percept-data check build/scenes/vqa-train.json",
        "percept-data tokenizer train captions.jsonl --out tokenizer.json --vocab 1024",
        NULL,
    };
    static const pc_cli_program program = {
        .name = "percept-data",
        .about = "Makes data sets, checks them, trains tokenizers, and shows texts and images as a "
                 "model gets them.",
        .commands = commands,
        .command_count = (int)(sizeof commands / sizeof *commands),
        .examples = examples,
    };
    return pc_cli_main(&program, argc, argv);
}
