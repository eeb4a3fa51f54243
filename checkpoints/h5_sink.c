/*
 * h5_sink.c - the HDF5 file driver behind h5_sink.h. Reads give what was written (zeros beyond the end,
 * and where the disk let us down).
 */
#include "checkpoints/h5_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct sink_file {
    H5FD_t base; // HDF5's own part comes first
    pc_h5_sink *sink;
    haddr_t eoa, eof; // end of what is allocated, and of what is written
} sink_file;

typedef struct sink_info {
    pc_h5_sink *sink;
} sink_info;

static void remember(pc_h5_sink *s, int error)
{
    if (!s->error) s->error = error ? error : EIO;
}

static H5FD_t *sink_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr)
{
    (void)name, (void)maxaddr;
    const sink_info *info = H5Pget_driver_info(fapl);
    sink_file *f = info ? calloc(1, sizeof *f) : NULL;
    if (!f) return NULL;
    f->sink = info->sink;
    if (flags & H5F_ACC_TRUNC && ftruncate(f->sink->fd, 0) != 0) remember(f->sink, errno);
    return &f->base;
}

static herr_t sink_close(H5FD_t *file)
{
    free(file);
    return 0;
}

static int sink_cmp(const H5FD_t *a, const H5FD_t *b)
{
    const pc_h5_sink *x = ((const sink_file *)a)->sink, *y = ((const sink_file *)b)->sink;
    return x < y ? -1 : x > y;
}

static herr_t sink_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    return 0;
}

static haddr_t sink_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const sink_file *)file)->eoa;
}

static herr_t sink_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t addr)
{
    (void)type;
    ((sink_file *)file)->eoa = addr;
    return 0;
}

static haddr_t sink_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const sink_file *)file)->eof;
}

static herr_t sink_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size,
                        void *buffer)
{
    (void)type, (void)dxpl;
    const sink_file *f = (const sink_file *)file;
    char *to = buffer;
    while (size > 0) {
        const ssize_t got = pread(f->sink->fd, to, size, (off_t)addr);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) remember(f->sink, errno);
        if (got <= 0) break;
        to += got;
        addr += (haddr_t)got;
        size -= (size_t)got;
    }
    memset(to, 0, size);
    return 0;
}

// Drops everything after the first error.
static void put_bytes(pc_h5_sink *s, uint64_t at, const void *buffer, size_t size)
{
    const char *from = buffer;
    while (size > 0 && !s->error) {
        const ssize_t put = pwrite(s->fd, from, size, (off_t)at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            remember(s, put ? errno : ENOSPC);
            break;
        }
        from += put;
        at += (uint64_t)put;
        size -= (size_t)put;
    }
}

static herr_t sink_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size,
                         const void *buffer)
{
    (void)type, (void)dxpl;
    sink_file *f = (sink_file *)file;
    if (addr + size > f->eof) f->eof = addr + size;
    put_bytes(f->sink, addr, buffer, size);
    return 0;
}

static herr_t sink_truncate(H5FD_t *file, hid_t dxpl, hbool_t closing)
{
    (void)dxpl, (void)closing;
    sink_file *f = (sink_file *)file;
    if (f->eoa == f->eof) return 0;
    if (!f->sink->error && ftruncate(f->sink->fd, (off_t)f->eoa) != 0) remember(f->sink, errno);
    f->eof = f->eoa;
    return 0;
}

static const H5FD_class_t SINK = {
    .name = "percept_sink",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(sink_info),
    .open = sink_open,
    .close = sink_close,
    .cmp = sink_cmp,
    .query = sink_query,
    .get_eoa = sink_get_eoa,
    .set_eoa = sink_set_eoa,
    .get_eof = sink_get_eof,
    .read = sink_read,
    .write = sink_write,
    .truncate = sink_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

pc_status pc_h5_sink_open(pc_h5_sink *s, const char *path)
{
    *s = (pc_h5_sink){.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
    return s->fd < 0 ? pc_fail_errno("cannot create '%s'", path) : PC_OK;
}

bool pc_h5_sink_use(pc_h5_sink *s, hid_t fapl)
{
    const sink_info info = {s};
    const hid_t driver = H5FDregister(&SINK);
    if (driver < 0) return false;
    const bool ok = H5Pset_driver(fapl, driver, &info) >= 0;
    H5FDunregister(driver); // the access list holds it
    return ok;
}

pc_status pc_h5_sink_put(pc_h5_sink *s, uint64_t at, const void *data, size_t size)
{
    put_bytes(s, at, data, size);
    return pc_h5_sink_status(s);
}

pc_status pc_h5_sink_status(const pc_h5_sink *s)
{
    errno = s->error;
    return s->error ? pc_fail_errno("cannot write the file") : PC_OK;
}

pc_status pc_h5_sink_close(pc_h5_sink *s)
{
    if (s->fd >= 0 && close(s->fd) != 0) remember(s, errno);
    s->fd = -1;
    return pc_h5_sink_status(s);
}
