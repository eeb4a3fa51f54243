/*
 * embed.h - images and texts through a two-tower model, many at a time.
 */
#ifndef PC_INFER_EMBED_H
#define PC_INFER_EMBED_H

#include "checkpoints/bundle.h"
#include "model/networks/placement.h"
#include "model/networks/runner.h"

typedef struct embedder {
    pc_bundle *bundle; // not owned
    pc_runner runner;
    pc_placement placement; // on the device the runner computes on
    int64_t E;
    float scale, bias; // exp(t) and b of the similarities
    bool sigmoid;
} embedder;

// The model must be a two-tower one (PC_ERR_INPUT otherwise); texts also need its tokenizer.
pc_status embedder_open(embedder *e, pc_bundle *bundle, int threads);
void embedder_close(embedder *e); // a zeroed one is fine

// Unit rows (n,E). `label` names the progress bar; NULL: none.
pc_status embed_images(embedder *e, float *out, const char *const *paths, int64_t n,
                       const char *label);
pc_status embed_texts(embedder *e, float *out, const char *const *texts, int64_t n,
                      const char *label);

// S (I,T) = U V^T, cosines.
pc_status embed_similarities(embedder *e, float *S, const float *U, int64_t I, const float *V,
                             int64_t T);

// One unit row a class: templates filled with its name, embedded, averaged (eval.md 6). W (C,E).
pc_status embed_classes(embedder *e, float *W, const char *const *names, int64_t C,
                        const char *const *templates, int n_templates);

// Cosines of one image with C classes into probabilities: softmax, or independent ones with a sigmoid loss.
void embed_probabilities(const embedder *e, double *p, const float *cosines, int64_t C);

#endif
