/*
 * picture.h - an image file inside an HTML page.
 */
#ifndef PC_DATA_PICTURE_H
#define PC_DATA_PICTURE_H

#include "data/images/image.h"
#include <stdio.h>

// <img> with the pixels in it, as PNG: at most `side` pixels on the longer side, smaller ones as they are.
pc_status pc_picture_html(FILE *out, const char *path, int64_t side, bool orient);

// Text with & < > " ' made harmless.
void pc_html_text(FILE *out, const char *text);

#endif
