/*
 * h5_sink.h - where a new HDF5 file's bytes go, so that a full disk ends in an error and nothing else.
 *
 * HDF5 keeps dirty metadata until the file is closed. When that last write fails, the close fails, the file stays
 * open inside the library, and the library tries again at exit, where it may crash. So the writes of
 * a file being made go to a driver of ours that never fails: it remembers the first error, drops what
 * follows, and lets HDF5 finish. The caller asks the sink whether the file is any good.
 */
#ifndef PC_CHECKPOINTS_H5_SINK_H
#define PC_CHECKPOINTS_H5_SINK_H

#include "model/core/status.h"
#include <hdf5.h>

typedef struct pc_h5_sink {
    int fd;
    int error; // errno of the first failure; 0: all written
} pc_h5_sink;

// Creates (empties) the file. The sink must outlive the HDF5 file.
pc_status pc_h5_sink_open(pc_h5_sink *s, const char *path);
// Directs H5Fcreate under this access list into the sink. False: HDF5 refused.
bool pc_h5_sink_use(pc_h5_sink *s, hid_t fapl);
// Bytes of ours at a place that HDF5 has given out.
pc_status pc_h5_sink_put(pc_h5_sink *s, uint64_t at, const void *data, size_t size);
// PC_ERR_IO with the system's words when anything went wrong so far.
pc_status pc_h5_sink_status(const pc_h5_sink *s);
// Closes and returns the final status.
pc_status pc_h5_sink_close(pc_h5_sink *s);

#endif
