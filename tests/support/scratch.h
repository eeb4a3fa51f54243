/*
 * scratch.h - a folder for a test's files, removed at the end, and small helpers around files.
 */
#ifndef PC_TESTS_SCRATCH_H
#define PC_TESTS_SCRATCH_H

#include "model/core/status.h"

// A fresh folder under $TMPDIR or /tmp. Aborts when there is none: a test cannot go on.
const char *scratch_open(void);
void scratch_close(void); // removes it and all that is in it

// "FOLDER/name" in one of 8 buffers used in turn.
const char *scratch_path(const char *name);
void scratch_write(const char *name, const void *data, size_t size); // a file with these bytes

// A file below the optional folder "../shared" of reference data (or below $PERCEPT_SHARED), or NULL
// when it is not there: the test then says that it was skipped. One of 8 buffers used in turn.
const char *shared_path(const char *name);

#endif
