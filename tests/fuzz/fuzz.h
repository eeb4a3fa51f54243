/*
 * fuzz.h - what the fuzz targets share. Each fuzz_NAME.c has one LLVMFuzzerTestOneInput, run by libFuzzer under the
 * address and undefined-behaviour sanitizers (scripts/fuzz.sh); seeds come from seeds.c.
 */
#ifndef PC_TESTS_FUZZ_H
#define PC_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

// A file in memory with these bytes, for readers that take a path: opened once, its content replaced each time.
const char *fuzz_file(const uint8_t *data, size_t size);

#endif
