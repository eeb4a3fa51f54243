/*
 * answer.h - questions about images, many at a time.
 *
 * Questions about one image share it: the image is encoded once, its rows and the words before the question are read
 * once, and each question is a branch behind them (networks/generate.h). Several images go through together.
 * Answers come back in the order of the questions and do not depend on how they were put together.
 */
#ifndef PC_INFER_ANSWER_H
#define PC_INFER_ANSWER_H

#include "checkpoints/bundle.h"
#include "model/networks/placement.h"
#include "model/networks/generate.h"

typedef struct answerer {
    pc_bundle *bundle; // not owned
    pc_runner runner;
    pc_placement placement; // on the device the runner computes on
    int32_t stop[8];        // ids that end an answer
    int stops;
} answerer;

// What is shown with a question that has an image.
typedef enum answer_view {
    ANSWER_SEE,
    ANSWER_ABSENT, // nothing: the text alone
    ANSWER_GREY,   // a picture of the mean colour
} answer_view;

typedef struct answer_options {
    int64_t max_tokens;
    pc_sampling sampling;
    const char *suffix; // added to every question; NULL: nothing
    answer_view view;   // answer_all only
    const char *label;  // of the progress bar; NULL: none
} answer_options;

typedef struct answer_item {
    const char *image; // a file; NULL: none
    const char *question;
} answer_item;

// The model must be a vlm that came with tokenizer and template (PC_ERR_INPUT otherwise).
pc_status answerer_open(answerer *a, pc_bundle *bundle, int threads);
void answerer_close(answerer *a); // a zeroed one is fine

// text[i]: malloc'ed, white space at the ends removed. On failure nothing is left to free.
pc_status answer_all(answerer *a, char **text, const answer_item *items, int64_t n,
                     const answer_options *o);

// A whole conversation, streamed: what is said is handed over as soon as its characters are whole.
typedef struct answer_stream {
    void (*say)(void *arg, const char *text); // may be NULL
    void *arg;
    int64_t tokens; // out
    double
        first; // out: seconds from the call to the first token: images read, seen, the prompt read
    bool stopped; // out: by the model itself
} answer_stream;
pc_status answer_one(answerer *a, char **text, const pc_message *messages, int n_messages,
                     const char *const *images, int n_images, const answer_options *o,
                     answer_stream *stream);

// Pixels (3,S,S) of an image file as this model sees them; "" is a picture of the mean colour. Errors name
// the file.
pc_status answer_pixels(float *out, const pc_image_config *c, const char *path);
// The same for many files at once, in parallel; out (n,3,S,S).
pc_status answer_pixels_all(float *out, const pc_image_config *c, const char *const *paths,
                            int64_t n, pc_pool *pool);

#endif
