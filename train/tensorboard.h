/*
 * tensorboard.h - an event file that TensorBoard reads.
 *
 *   record   u64 length | u32 masked CRC-32C of those 8 bytes | data | u32 masked CRC-32C of data
 *   mask     ((crc >> 15) | (crc << 17)) + 0xa282ead8
 *   data     protobuf Event: 1 wall_time f64, 2 step varint, 3 file_version text, 5 Summary, 7 SessionLog
 *            Summary: repeated 1 Value { 1 tag text, 2 simple_value f32 }
 *
 * A resumed run writes a file of its own that begins with a session start at its step: readers then drop
 * what an earlier file says beyond it.
 */
#ifndef PC_TRAIN_TENSORBOARD_H
#define PC_TRAIN_TENSORBOARD_H

#include "model/core/status.h"

typedef struct tensorboard_value {
    const char *tag;
    double value;
} tensorboard_value;

enum { TENSORBOARD_BUFFER = 1 << 16, TENSORBOARD_VALUES = 64 };

typedef struct tensorboard {
    int fd; // open when buffer is set
    char path[4200];
    unsigned char *buffer;
    size_t used;
} tensorboard;

pc_status tensorboard_open(tensorboard *t, const char *folder, int64_t step);
pc_status tensorboard_write(tensorboard *t, int64_t step, const tensorboard_value *values, int n);
pc_status tensorboard_flush(tensorboard *t);
void tensorboard_close(tensorboard *t);

uint32_t crc32c(const void *data, size_t size); // Castagnoli

#endif
