/*
 * infer.h - what percept answers: the map of this room.
 *
 *   main.c                the table of commands
 *   commands/             one file per command: flags in, results out
 *   answer.{h,c}          questions about images through a vision-language model, many at a time
 *   embed.{h,c}           images and texts through a two-tower model, many at a time
 *   evaluate/             the suites of `percept eval` and their report
 *
 * The forward code is the one that was trained; no backward code is linked into percept.
 */
#ifndef PC_INFER_H
#define PC_INFER_H

#include "model/core/status.h"

pc_status ask_main(int argc, char **argv);
pc_status chat_main(int argc, char **argv);
pc_status classify_main(int argc, char **argv);
pc_status embed_main(int argc, char **argv);
pc_status eval_main(int argc, char **argv);
pc_status logits_main(int argc, char **argv);

#endif
