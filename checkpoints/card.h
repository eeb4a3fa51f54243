/*
 * card.h - what is known of a model besides its numbers: for model cards, and for the metadata of GGUF files.
 *
 * From the checkpoint's own texts (the recipe it was trained with), from manifest.json of the run's folder where the
 * checkpoint still lies in one (DIR/checkpoints/best.h5 -> DIR/manifest.json), and from the command line.
 */
#ifndef PC_CHECKPOINTS_CARD_H
#define PC_CHECKPOINTS_CARD_H

#include "checkpoints/supply.h"

#define PC_CARD_LIST 32

typedef struct pc_card {
    char name[200];
    const char *license; // the user's word; NULL: not said
    const char *base[PC_CARD_LIST];
    int base_count;
    const char *datasets[PC_CARD_LIST], *hashes[PC_CARD_LIST], *licences[PC_CARD_LIST];
    int dataset_count;
    const char *recipe;                // YAML text; NULL: not trained here
    const char *version, *inputs_hash; // of the run
    int64_t seed, step;                // -1: not known
    json_t *manifest;                  // owns the texts above
} pc_card;

// `path` is that of the checkpoint or directory. A manifest that cannot be read is left out with a warning.
pc_status pc_card_open(pc_card *out, const pc_supply *o, const char *path, const char *name,
                       const char *license);
void pc_card_close(pc_card *c);

// README.md, malloc'ed. `numbers`: "1.2 M parameters in bfloat16".
char *pc_card_text(const pc_card *c, const pc_supply *o, const char *numbers);

#endif
