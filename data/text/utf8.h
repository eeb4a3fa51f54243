/*
 * utf8.h - characters in bytes: what is whole, what is broken, what is still to come.
 *
 * Broken bytes are replaced by U+FFFD by the rule of maximal subparts (Unicode 15, 3.9): one U+FFFD for
 * every longest beginning of a character that its next byte cannot continue.
 */
#ifndef PC_DATA_UTF8_H
#define PC_DATA_UTF8_H

#include "model/core/status.h"

// The bytes of the character that starts at s (1 to 4); minus the number of bytes that one U+FFFD
// replaces; 0 when all n bytes are the beginning of a character that more bytes could complete.
int pc_utf8_step(const unsigned char *s, size_t n);

bool pc_utf8_valid(const char *text, size_t size);
bool pc_utf8_ascii(const char *text, size_t size);

// malloc'ed, NUL-terminated copy with every broken part replaced by U+FFFD; NULL: no memory.
char *pc_utf8_repaired(const char *text, size_t size, size_t *out_size);

// The code point of the whole character at s.
uint32_t pc_utf8_code(const unsigned char *s, int length);
// Writes the character (1 to 4 bytes) and returns its length.
int pc_utf8_put(unsigned char *out, uint32_t code);

// Unicode's White_Space property.
bool pc_utf8_is_space(uint32_t code);

#endif
