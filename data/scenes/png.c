/*
 * png.c - PNG files through stb_image_write.
 */
#include <errno.h>
#include <stdio.h>

#include "data/scenes/png.h"

#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h> // compiled in data/images/stb.c

typedef struct png_sink {
    FILE *file;
    bool failed;
} png_sink;

static void write_piece(void *context, void *data, int size)
{
    png_sink *sink = context;
    sink->failed |= fwrite(data, 1, (size_t)size, sink->file) != (size_t)size;
}

pc_status scene_png_write(const char *path, const uint8_t *rgb, int size)
{
    PC_ASSERT(size > 0 && size < 1 << 14, "a picture of %d pixels on a side", size);
    png_sink sink = {.file = fopen(path, "wb")};
    if (!sink.file) return pc_fail_errno("cannot write '%s'", path);
    errno = 0;
    const int made = stbi_write_png_to_func(write_piece, &sink, size, size, 3, rgb, 3 * size);
    const int saved = errno;
    const bool closed = fclose(sink.file) == 0;
    if (!made) return pc_fail(PC_ERR_MEMORY, "no memory to encode '%s'", path);
    if (sink.failed || !closed) {
        if (saved) errno = saved;
        return pc_fail_errno("cannot write '%s'", path);
    }
    return PC_OK;
}
