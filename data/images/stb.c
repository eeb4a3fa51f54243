/*
 * stb.c - the one place where stb_image and stb_image_write are compiled, without our warnings: it is not our code.
 * JPEG has its own library; formats without a magic number (TGA) are left out.
 */
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#if !defined(                                                                                      \
    __clang__) // GCC 12 with -fsanitize=undefined takes the growing buffer for an empty one
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#endif
#include <stdlib.h>
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_ONLY_PNM
#define STBI_NO_STDIO
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STBI_FAILURE_USERMSG
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STBI_WRITE_NO_STDIO
#define STBIW_MALLOC(n)     malloc((n) ? (size_t)(n) : 1) // no allocation of nothing
#define STBIW_REALLOC(p, n) realloc(p, n)
#define STBIW_FREE(p)       free(p)
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
