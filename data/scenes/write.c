/*
 * write.c - the files of a whole data set. README.md in the folder written describes them.
 *
 * Pictures are drawn by all threads into images/; the text files follow, each from the scenes
 * alone. scenes.json, the ground truth, is written last, after everything else is on the disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/scenes/language.h"
#include "data/scenes/png.h"
#include "model/core/file.h"
#include "model/core/threads.h"

enum { MAX_QUESTIONS = 32, PATH_ROOM = 4096 };

scenes_options scenes_default_options(void)
{
    return (scenes_options){.images = 16000, .seed = 1, .size = 64, .questions = 12};
}

int64_t scenes_split_images(const scenes_options *options, scene_split split)
{
    if (split == SCENE_TRAIN) return options->images;
    const int64_t quarter = (options->images + 3) / 4;
    return quarter < 500 ? quarter : 500;
}

static pc_status check_options(const scenes_options *o)
{
    if (o->images < 1 || o->images > 10000000)
        return pc_fail(PC_ERR_USAGE, "%lld images asked for, 1 to 10000000 can be had",
                       (long long)o->images);
    if (o->size < 32 || o->size > 512)
        return pc_fail(PC_ERR_USAGE, "pictures of %d pixels asked for, 32 to 512 can be had",
                       o->size);
    if (o->questions < 1 || o->questions > MAX_QUESTIONS)
        return pc_fail(PC_ERR_USAGE, "%d questions an image asked for, 1 to %d can be had",
                       o->questions, MAX_QUESTIONS);
    return PC_OK;
}

static void image_name(char out[64], scene_split split, int64_t index)
{
    snprintf(out, 64, "images/%s_%05lld.png", scene_split_names[split], (long long)index);
}

/* ---- pictures ---- */

typedef struct draw_job {
    const char *dir;
    const scenes_options *options;
    scene_split split;
    int64_t first; // index of the piece's first image
    pc_status status[64];
    char message[64][512];
} draw_job;

static pc_status draw_range(const draw_job *job, int64_t begin, int64_t end)
{
    const int size = job->options->size;
    const size_t values = (size_t)3 * (size_t)size * (size_t)size;
    uint8_t *rgb = malloc(values);
    float *canvas = malloc(values * sizeof *canvas);
    pc_status st = PC_OK;
    if (!rgb || !canvas) st = pc_fail(PC_ERR_MEMORY, "a picture of %d pixels", size);
    for (int64_t i = begin; i < end && !st; i++) {
        char name[64], path[PATH_ROOM];
        pc_scene scene;
        scene_layout(&scene, job->options->seed, job->split, job->first + i);
        scene_draw(rgb, canvas, &scene, size);
        image_name(name, job->split, job->first + i);
        snprintf(path, sizeof path, "%s/%s", job->dir, name);
        st = scene_png_write(path, rgb, size);
    }
    free(canvas);
    free(rgb);
    return st;
}

static void draw_task(void *arg, int64_t begin, int64_t end, int worker)
{
    draw_job *job = arg;
    job->status[worker] = draw_range(job, begin, end);
    if (job->status[worker])
        snprintf(job->message[worker], sizeof job->message[worker], "%s", pc_error_text());
}

static pc_status draw_all(const char *dir, const scenes_options *o, pc_pool *pool)
{
    const int64_t piece = 256; // between two reports of progress
    int64_t total = 0, done = 0;
    for (int s = 0; s < SCENE_SPLITS; s++) total += scenes_split_images(o, (scene_split)s);
    draw_job *job = malloc(sizeof *job);
    if (!job) return pc_fail(PC_ERR_MEMORY, "the pictures' workers");

    pc_status st = PC_OK;
    for (int s = 0; s < SCENE_SPLITS && !st; s++) {
        const int64_t n = scenes_split_images(o, (scene_split)s);
        for (int64_t first = 0; first < n && !st; first += piece) {
            const int64_t here = n - first < piece ? n - first : piece;
            memset(job, 0, sizeof *job);
            job->dir = dir;
            job->options = o;
            job->split = (scene_split)s;
            job->first = first;
            pc_parallel(pool, here, 1, draw_task, job);
            for (int w = 0; w < 64 && !st; w++) {
                st = job->status[w];
                if (st) pc_error_set(job->message[w]);
            }
            done += here;
            if (o->progress) o->progress(o->user, done, total);
        }
    }
    free(job);
    return st;
}

/* ---- text files ---- */

/* One file under construction: everything is printed to `out`, errors are looked at once. */
typedef struct text_file {
    FILE *out;
    char path[PATH_ROOM], temp[PATH_ROOM];
} text_file;

static pc_status text_open(text_file *f, const char *dir, const char *fmt, const char *name)
{
    char file[64];
    snprintf(file, sizeof file, fmt, name);
    snprintf(f->path, sizeof f->path, "%s/%s", dir, file);
    pc_status st = pc_file_temp(f->temp, sizeof f->temp, f->path);
    if (st) return st;
    f->out = fopen(f->temp, "wb");
    return f->out ? PC_OK : pc_fail_errno("cannot write '%s'", f->temp);
}

static pc_status text_close(text_file *f)
{
    const bool failed = ferror(f->out) != 0;
    if (fclose(f->out) != 0 || failed) {
        pc_status st = pc_fail_errno("cannot write '%s'", f->path);
        unlink(f->temp);
        return st;
    }
    return pc_file_commit(f->temp, f->path);
}

static pc_status write_captions(const char *dir, const scenes_options *o, scene_split split)
{
    text_file f;
    pc_status st = text_open(&f, dir, "captions-%s.jsonl", scene_split_names[split]);
    if (st) return st;
    for (int64_t i = 0; i < scenes_split_images(o, split); i++) {
        pc_scene scene;
        char caption[SCENE_CAPTIONS][SCENE_TEXT], name[64];
        scene_layout(&scene, o->seed, split, i);
        scene_captions(caption, &scene);
        image_name(name, split, i);
        fprintf(f.out, "{\"image\": \"%s\", \"captions\": [", name);
        for (int c = 0; c < SCENE_CAPTIONS; c++)
            fprintf(f.out, "%s\"%s\"", c ? ", " : "", caption[c]);
        fprintf(f.out, "]}\n");
    }
    return text_close(&f);
}

static void print_turn(FILE *out, bool first, const char *question, const char *reply)
{
    fprintf(out,
            "%s{\"from\": \"human\", \"value\": \"%s%s\"}, {\"from\": \"gpt\", \"value\": \"%s\"}",
            first ? "" : ", ", first ? "<image>\\n" : "", question, reply);
}

static void print_type(FILE *out, bool first, const char *type)
{
    fprintf(out, "%s{\"type\": \"%s\", \"made_by\": \"rule\"}", first ? "" : ", ", type);
}

/* Conversations about every image of a split: questions, dense turns, or both, one after the other. */
static pc_status write_conversations(const char *dir, const scenes_options *o, scene_split split,
                                     const char *kind, bool questions, bool dense)
{
    char pattern[32];
    snprintf(pattern, sizeof pattern, "%s-%%s.json", kind);
    text_file f;
    pc_status st = text_open(&f, dir, pattern, scene_split_names[split]);
    if (st) return st;
    fprintf(f.out, "[");
    for (int64_t i = 0; i < scenes_split_images(o, split); i++) {
        pc_scene scene;
        scene_question q[MAX_QUESTIONS];
        scene_turn turn[SCENE_TURNS];
        char name[64];
        scene_layout(&scene, o->seed, split, i);
        const int asked = questions ? scene_questions(q, o->questions, &scene) : 0;
        const int told = dense ? scene_turns(turn, &scene) : 0;
        image_name(name, split, i);
        fprintf(f.out, "%s\n{\"id\": \"%s_%s_%05lld\", \"image\": \"%s\", ", i ? "," : "", kind,
                scene_split_names[split], (long long)i, name);
        fprintf(f.out, "\"conversations\": [");
        for (int k = 0; k < asked; k++) print_turn(f.out, k == 0, q[k].text, q[k].answer);
        for (int k = 0; k < told; k++)
            print_turn(f.out, asked + k == 0, turn[k].request, turn[k].reply);
        fprintf(f.out, "], \"turn_meta\": [");
        for (int k = 0; k < asked; k++) print_type(f.out, k == 0, scene_type_names[q[k].type]);
        for (int k = 0; k < told; k++)
            print_type(f.out, asked + k == 0, scene_turn_names[turn[k].type]);
        fprintf(f.out, "]}");
    }
    fprintf(f.out, "\n]\n");
    return text_close(&f);
}

static pc_status write_questions(const char *dir, const scenes_options *o, scene_split split)
{
    text_file f;
    pc_status st = text_open(&f, dir, "qa-%s.jsonl", scene_split_names[split]);
    if (st) return st;
    int64_t id = 0;
    for (int64_t i = 0; i < scenes_split_images(o, split); i++) {
        pc_scene scene;
        scene_question q[MAX_QUESTIONS];
        char name[64];
        scene_layout(&scene, o->seed, split, i);
        const int n = scene_questions(q, o->questions, &scene);
        image_name(name, split, i);
        for (int k = 0; k < n; k++)
            fprintf(f.out,
                    "{\"question_id\": %lld, \"image\": \"%s\", \"question\": \"%s\", "
                    "\"answer\": \"%s\", \"type\": \"%s\", \"made_by\": \"rule\"}\n",
                    (long long)++id, name, q[k].text, q[k].answer, scene_type_names[q[k].type]);
    }
    return text_close(&f);
}

static pc_status write_presence(const char *dir, const scenes_options *o, scene_lure lure,
                                const int64_t frequency[SCENE_COLOURS][SCENE_SHAPES])
{
    static const char *const names[SCENE_LURES] = {"random", "popular", "adversarial"};
    text_file f;
    pc_status st = text_open(&f, dir, "pope-%s.jsonl", names[lure]);
    if (st) return st;
    int64_t id = 0;
    for (int64_t i = 0; i < scenes_split_images(o, SCENE_TEST); i++) {
        pc_scene scene;
        scene_pair pair[2 * SCENE_PRESENCE];
        char name[64];
        scene_layout(&scene, o->seed, SCENE_TEST, i);
        const int n = scene_presence(pair, &scene, lure, frequency);
        image_name(name, SCENE_TEST, i);
        for (int k = 0; k < n; k++) {
            const char *colour = scene_colour_names[pair[k].colour];
            fprintf(f.out,
                    "{\"question_id\": %lld, \"image\": \"%s\", \"text\": \"Is there %s %s %s in "
                    "the image?\", \"label\": \"%s\"}\n",
                    (long long)++id, name, scene_article(colour), colour,
                    scene_shape_names[pair[k].shape], pair[k].there ? "yes" : "no");
        }
    }
    return text_close(&f);
}

static pc_status write_all_presence(const char *dir, const scenes_options *o)
{
    int64_t frequency[SCENE_COLOURS][SCENE_SHAPES] = {{0}};
    for (int64_t i = 0; i < scenes_split_images(o, SCENE_TRAIN); i++) {
        pc_scene scene;
        scene_layout(&scene, o->seed, SCENE_TRAIN, i);
        for (int k = 0; k < scene.count; k++)
            frequency[scene.object[k].colour][scene.object[k].shape]++;
    }
    pc_status st = PC_OK;
    for (int lure = 0; lure < SCENE_LURES && !st; lure++)
        st = write_presence(dir, o, (scene_lure)lure, (const int64_t(*)[SCENE_SHAPES])frequency);
    return st;
}

static pc_status write_truth(const char *dir, const scenes_options *o)
{
    text_file f;
    pc_status st = text_open(&f, dir, "%s.json", "scenes");
    if (st) return st;
    fprintf(f.out, "[");
    for (int s = 0; s < SCENE_SPLITS; s++) {
        for (int64_t i = 0; i < scenes_split_images(o, (scene_split)s); i++) {
            pc_scene scene;
            char name[64];
            scene_layout(&scene, o->seed, (scene_split)s, i);
            image_name(name, (scene_split)s, i);
            fprintf(f.out, "%s\n{\"image\": \"%s\", \"split\": \"%s\", \"objects\": [",
                    s || i ? "," : "", name, scene_split_names[s]);
            for (int k = 0; k < scene.count; k++) {
                const scene_object *ob = &scene.object[k];
                fprintf(f.out,
                        "%s{\"shape\": \"%s\", \"colour\": \"%s\", \"size\": \"%s\", "
                        "\"texture\": \"%s\", \"x\": %.4f, \"y\": %.4f, \"radius\": %.4f}",
                        k ? ", " : "", scene_shape_names[ob->shape], scene_colour_names[ob->colour],
                        scene_size_names[ob->size], scene_texture_names[ob->texture], ob->x, ob->y,
                        ob->radius);
            }
            fprintf(f.out, "]}");
        }
    }
    fprintf(f.out, "\n]\n");
    return text_close(&f);
}

static pc_status write_readme(const char *dir, const scenes_options *o)
{
    text_file f;
    pc_status st = text_open(&f, dir, "%s.md", "README");
    if (st) return st;
    fprintf(f.out,
            "# Generated scenes\n\n"
            "Drawn by `percept-data scenes` with --images %lld --seed %llu --size %d; the same "
            "command gives the same bytes.\nNo rights are reserved in these files (CC0).\n\n",
            (long long)o->images, (unsigned long long)o->seed, o->size);
    fprintf(f.out, "| split | images |\n| --- | --- |\n");
    for (int s = 0; s < SCENE_SPLITS; s++)
        fprintf(f.out, "| %s | %lld |\n", scene_split_names[s],
                (long long)scenes_split_images(o, (scene_split)s));
    fprintf(
        f.out,
        "\n1 to %d objects of %d shapes, %d colours, 2 sizes and 3 textures lie at free places, "
        "slightly turned, over an\nuneven background with noise. Every image of `unseen` shows "
        "at least one of these pairs, which occur in no other\nsplit, in pictures or words:",
        SCENE_MAX_OBJECTS, SCENE_SHAPES, SCENE_COLOURS);
    for (int h = 0, n = 0; h < SCENE_SHAPES; h++)
        for (int c = 0; c < SCENE_COLOURS; c++)
            if (scene_held_out(c, h))
                fprintf(f.out, "%s %s %s", n++ ? "," : "", scene_colour_names[c],
                        scene_shape_names[h]);
    fprintf(
        f.out,
        ".\n\n| file | what |\n| --- | --- |\n"
        "| `images/SPLIT_NNNNN.png` | the pictures, RGB |\n"
        "| `captions-SPLIT.jsonl` | `{\"image\", \"captions\": [...]}`, %d captions each |\n"
        "| `dense-train.json`, `dense-val.json` | LLaVA conversations: every object with its "
        "square (columns a to h from the left, rows 1 to 8 from the top), and requests for place, "
        "content and side |\n"
        "| `vqa-SPLIT.json` | LLaVA conversations: all questions of an image as turns; "
        "`turn_meta` has each turn's type |\n"
        "| `tune-train.json` | the turns of `vqa-train.json` and of `dense-train.json`, one row an "
        "image |\n"
        "| `qa-SPLIT.jsonl` (val, test, unseen) | the same questions flat: `question_id`, `image`, "
        "`question`, `answer`, `type` |\n"
        "| `pope-random.jsonl`, `pope-popular.jsonl`, `pope-adversarial.jsonl` | POPE form on "
        "test images: `question_id`, `image`, `text`, `label` |\n"
        "| `scenes.json` | the ground truth: every object of every image; x, y and radius as "
        "fractions of the side |\n\n"
        "POPE's absent pairs: `random` any, `popular` the most frequent of train, `adversarial` "
        "those whose colour and\nshape the image shows on different objects, or else one of the "
        "two.\n\nEverything was made by rules; nothing was written by a person.\n",
        SCENE_CAPTIONS);
    return text_close(&f);
}

static pc_status write_texts(const char *dir, const scenes_options *o)
{
    pc_status st = PC_OK;
    for (int s = 0; s < SCENE_SPLITS && !st; s++) {
        const scene_split split = (scene_split)s;
        if ((st = write_captions(dir, o, split))) break;
        if ((st = write_conversations(dir, o, split, "vqa", true, false))) break;
        if (split == SCENE_TRAIN) st = write_conversations(dir, o, split, "tune", true, true);
        if (!st && split <= SCENE_VAL)
            st = write_conversations(dir, o, split, "dense", false, true);
        if (!st && split != SCENE_TRAIN) st = write_questions(dir, o, split);
    }
    if (st || (st = write_all_presence(dir, o)) || (st = write_readme(dir, o))) return st;
    return write_truth(dir, o);
}

/* Pushes the pictures to the disk at once instead of one by one. */
static pc_status sync_folder(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return pc_fail_errno("cannot open '%s'", path);
    const int bad = syncfs(fd);
    const int saved = errno;
    close(fd);
    errno = saved;
    return bad ? pc_fail_errno("cannot sync '%s'", path) : PC_OK;
}

pc_status scenes_write(const char *out_dir, const scenes_options *options)
{
    char path[PATH_ROOM];
    pc_status st = check_options(options);
    if (st) return st;
    if (strlen(out_dir) + 64 > sizeof path)
        return pc_fail(PC_ERR_USAGE, "the folder's name has %zu bytes, %zu can be had",
                       strlen(out_dir), sizeof path - 64);
    snprintf(path, sizeof path, "%s/scenes.json", out_dir);
    if (unlink(path) && errno != ENOENT && errno != ENOTDIR)
        return pc_fail_errno("cannot replace '%s'", path);
    snprintf(path, sizeof path, "%s/images", out_dir);
    if ((st = pc_make_dirs(path))) return st;

    int threads = options->threads > 0 ? options->threads : pc_cpu_count();
    if (threads > 64) threads = 64; // draw_job has room for these
    pc_pool *pool = NULL;
    if ((st = pc_pool_open(&pool, threads))) return st;
    st = draw_all(out_dir, options, pool);
    pc_pool_close(pool);
    if (!st) st = sync_folder(path);
    if (!st) st = write_texts(out_dir, options);
    return st ? pc_context(st, "scenes '%s'", out_dir) : PC_OK;
}
