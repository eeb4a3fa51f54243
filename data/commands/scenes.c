/*
 * scenes.c - percept-data scenes: draws the embedded data set.
 */
#include "data/commands/commands.h"
#include "data/scenes/scenes.h"
#include "model/core/log.h"

static void show_progress(void *user, int64_t done, int64_t total)
{
    pc_progress *p = user;
    if (p->total == 0) pc_progress_open(p, "scenes", "images", total);
    pc_progress_update(p, done, NULL);
}

static pc_status report(const char *dir, const scenes_options *o, bool as_json)
{
    int64_t n[SCENE_SPLITS], total = 0;
    for (int s = 0; s < SCENE_SPLITS; s++) total += n[s] = scenes_split_images(o, (scene_split)s);
    pc_status st = PC_OK;
    if (as_json) {
        json_t *all = json_pack("{s:s, s:{s:I, s:I, s:I, s:I}, s:I, s:i}", "out", dir, "images",
                                scene_split_names[SCENE_TRAIN], (json_int_t)n[SCENE_TRAIN],
                                scene_split_names[SCENE_VAL], (json_int_t)n[SCENE_VAL],
                                scene_split_names[SCENE_TEST], (json_int_t)n[SCENE_TEST],
                                scene_split_names[SCENE_UNSEEN], (json_int_t)n[SCENE_UNSEEN],
                                "seed", (json_int_t)o->seed, "size", o->size);
        st = data_print_json(all);
        json_decref(all);
    } else {
        printf("%s: %lld images of %d x %d pixels (", dir, (long long)total, o->size, o->size);
        for (int s = 0; s < SCENE_SPLITS; s++)
            printf("%s%lld %s", s ? ", " : "", (long long)n[s], scene_split_names[s]);
        printf("); what is in it: %s/README.md\n", dir);
    }
    return st ? st : data_flush();
}

pc_status data_scenes(int argc, char **argv)
{
    static const char *const examples[] = {
        "percept-data scenes build/scenes",
        "percept-data scenes /tmp/small --images 200 --seed 3",
        NULL,
    };
    scenes_options o = scenes_default_options();
    int64_t images = o.images, seed = (int64_t)o.seed, size = o.size, questions = o.questions,
            threads = 0;
    bool as_json = false;
    const pc_cli_flag flags[] = {
        {"images", PC_CLI_INT, &images, "N",
         "images to train on; the other splits have a quarter of it, 500 at most", 1, 1e7, NULL},
        {"seed", PC_CLI_INT, &seed, "S", "another seed draws other scenes", 0, 9e15, NULL},
        {"size", PC_CLI_INT, &size, "PX", "pixels on a side", 32, 512, NULL},
        {"questions", PC_CLI_INT, &questions, "N", "questions to an image", 1, 32, NULL},
        {"threads", PC_CLI_INT, &threads, "N", "threads that draw; 0 takes every processor", 0, 64,
         NULL},
        {"json", PC_CLI_BOOL, &as_json, NULL, "the summary as one JSON object", 0, 0, NULL},
    };
    const pc_cli cli = {
        .command = "percept-data scenes",
        .usage = "OUT",
        .about = "Draws a data set of simple scenes into the folder OUT: pictures, captions, dense "
                 "descriptions, questions with answers, existence questions in POPE form, and the "
                 "ground truth, for training, validation, test, and a split whose colour-shape "
                 "pairs never occur in training. The same flags give the same bytes.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .min_args = 1,
        .max_args = 1,
        .examples = examples,
    };
    char **args;
    int n;
    pc_status st = pc_cli_parse(&cli, argc, argv, &args, &n);
    if (st || !args) return st;

    pc_progress progress = {0};
    o.images = images;
    o.seed = (uint64_t)seed;
    o.size = (int)size;
    o.questions = (int)questions;
    o.threads = (int)threads;
    o.progress = show_progress;
    o.user = &progress;
    st = scenes_write(args[0], &o);
    if (progress.total) pc_progress_close(&progress);
    return st ? st : report(args[0], &o, as_json);
}
