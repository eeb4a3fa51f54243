/*
 * repair.h - checksums of an HDF5 file, made right again after its bytes were changed: without it the library would throw
 * nearly every mutation away at the first header, and nothing behind would be tried.
 */
#ifndef PC_TESTS_FUZZ_REPAIR_H
#define PC_TESTS_FUZZ_REPAIR_H

#include <stddef.h>
#include <stdint.h>

// The superblock (version 2 or 3) and every object header of version 2 that is whole.
void repair_hdf5(uint8_t *data, size_t size);

#endif
