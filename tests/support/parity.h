/*
 * parity.h - our commands against reference numbers, folder by folder.
 *
 * A golden folder holds a published-style model with inputs, outputs, gradients, traces and generations (schema:
 * tests/goldens/README.md). The commands are run as users run them; relative errors are Frobenius norms over
 * the places that count (attention_mask 1). Each check prints the worst error it saw beside its tolerance.
 */
#ifndef PC_TESTS_PARITY_H
#define PC_TESTS_PARITY_H

#include "model/core/status.h"

// Passing limits; errors seen stand in the tests that use them.
#define PARITY_OUTPUT 1e-5
#define PARITY_GRAD   5e-5
#define PARITY_TRACE  1e-4
#define PARITY_FINAL  1e-4

// Failures so far of this program; a test's main returns parity_failed() != 0.
int parity_failed(void);

// `percept logits`: every tensor of outputs.safetensors that we write too, and with `taps` every activation that
// has a name of ours (parity_names.c). `model` NULL: the folder itself.
void parity_logits(const char *dir, const char *model, bool taps);
// Our names of what they store as `theirs`, the likeliest first; at most 3, and their number. `last`: number of the last
// block, whose hidden state is the normed one in a decoder.
int parity_names(char ours[3][64], const char *theirs, int64_t last);
// `percept-train gradients`: exactly the keys of grads.safetensors.
void parity_gradients(const char *dir);
// `percept-train replay`: losses and gradient norms of every step, and the parameters at the end.
void parity_trace(const char *dir, const char *trace, const char *batches, const char *final);
// DIR/lora: adapters beside the model, backward through them, a trace that trains them, and the trained ones merged
// into a native checkpoint, or kept in one. Nothing to do where the folder has none.
void parity_adapters(const char *dir);
// Greedy generation with the cache: identical ids.
void parity_generation(const char *dir);

// Everything that a folder has numbers for, whatever its model is; every folder below `root` that holds a model.
// Returns how many there were.
void parity_folder(const char *dir);
int parity_walk(const char *root);

// tests/goldens/NAME always; ../shared/goldens/NAME where that folder is: otherwise NULL with a printed line, and
// a failure when CI=true.
const char *parity_own(const char *name);
const char *parity_shared(const char *name);

// A folder in scratch with the files of `dir`, but `config` as its config.json.
const char *parity_other_config(const char *dir, const char *config);

// |a-b| / |b| over n numbers, NaN when either is not finite.
double parity_error(const float *a, const float *b, int64_t n);
// Prints the line; counts a failure unless error <= limit.
void parity_broken(const char *what); // a failure with the recorded message
void parity_report(const char *what, double error, double limit, const char *where);

#endif
