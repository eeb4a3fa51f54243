/*
 * matcher.h - which of many texts stands at a place: the longest. Added tokens and user-defined pieces.
 */
#ifndef PC_DATA_MATCHER_H
#define PC_DATA_MATCHER_H

#include "data/text/bytemap.h"

typedef struct pc_matcher {
    pc_bytemap map;     // text -> value
    int32_t *length;    // the lengths that occur, by first byte, longest first
    int64_t begin[257]; // of a first byte's lengths
} pc_matcher;

// The first of two equal texts stays.
pc_status pc_matcher_add(pc_matcher *m, const char *text, size_t size, int64_t value);
pc_status pc_matcher_finish(pc_matcher *m); // after the last one
void pc_matcher_close(pc_matcher *m);

static inline bool pc_matcher_may_begin(const pc_matcher *m, char c)
{
    return m->begin[(unsigned char)c] < m->begin[(unsigned char)c + 1];
}
// The value of the longest one that `text` begins with, and its length; -1: none.
int64_t pc_matcher_find(const pc_matcher *m, size_t *length, const char *text, size_t size);

#endif
