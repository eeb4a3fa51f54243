/*
 * base64.h - bytes as letters (RFC 4648), strict: no line breaks, padding where it belongs.
 */
#ifndef PC_DATA_BASE64_H
#define PC_DATA_BASE64_H

#include "model/core/status.h"

// out: room for size / 4 * 3 bytes. false: not base64.
bool pc_base64_decode(unsigned char *out, size_t *out_size, const char *text, size_t size);
char *pc_base64_encode(const void *bytes, size_t size); // malloc'ed; NULL: no memory

#endif
