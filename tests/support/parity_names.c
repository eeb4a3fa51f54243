/*
 * parity_names.c - what reference files call an activation, and what we call it (see parity.h).
 */
#include "tests/support/parity.h"

#include <stdio.h>
#include <string.h>

typedef struct pair {
    const char *theirs,
        *ours[3]; // in ours a %lld takes the number behind `theirs`, which then ends in a dot
} pair;

static const pair pairs[] = {
    {"hidden_states.", {"decoder.hidden_states.%lld"}},
    {"lm_hidden_states.", {"decoder.hidden_states.%lld"}},
    {"vision_hidden_states.", {"vision.hidden_states.%lld"}},
    {"text_hidden_states.", {"text.hidden_states.%lld"}},
    {"sam_hidden_states.", {"vision.high.hidden_states.%lld", "sam.hidden_states.%lld"}},
    // after the last norm where all rows go through it, else what the blocks gave
    {"vision_last_hidden_state", {"vision.post", "vision.selected"}},
    {"low_res_last_hidden_state", {"vision.selected", "vision.post"}},
    {"high_res_features", {"vision.high.features"}},
    {"sam_neck_output", {"vision.high.neck"}},
    {"vision_pooled", {"vision.pooled", "vision.embedding"}},
    {"text_last_hidden_state", {"text.normed"}},
    {"text_pooled", {"text.embedding", "text.pooled"}},
    {"image_features_selected", {"vision.selected"}},
    {"image_features_projected", {"projector.out"}},
    {"image_features_packed", {"projector.packed"}},
    {"image_features", {"projector.out"}},
};

int parity_names(char ours[3][64], const char *theirs, int64_t last)
{
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const pair *p = &pairs[i];
        const size_t n = strlen(p->theirs);
        const bool numbered = p->theirs[n - 1] == '.';
        long long number = -1;
        char rest;
        if (numbered ? strncmp(theirs, p->theirs, n) != 0 ||
                           sscanf(theirs + n, "%lld%c", &number, &rest) != 1
                     : strcmp(theirs, p->theirs) != 0)
            continue;
        int count = 0;
        while (count < 3 && p->ours[count]) {
            // Published models call a decoder's normed rows its last hidden state.
            if (number == last && !strncmp(p->ours[count], "decoder.", 8)) {
                snprintf(ours[count++], 64, "decoder.normed");
                continue;
            }
            const char *mark = strstr(p->ours[count], "%lld");
            if (mark)
                snprintf(ours[count], 64, "%.*s%lld", (int)(mark - p->ours[count]), p->ours[count],
                         number);
            else
                snprintf(ours[count], 64, "%s", p->ours[count]);
            count++;
        }
        return count;
    }
    return 0;
}
