/* png.h - one picture to one PNG file. */
#ifndef PC_DATA_SCENES_PNG_H
#define PC_DATA_SCENES_PNG_H

#include "model/core/status.h"

/* Writes 3 * size * size bytes of RGB to `path`, in place and unsynced: the data set's last file is
 * written only after the file system has been synced. */
pc_status scene_png_write(const char *path, const uint8_t *rgb, int size);

#endif
