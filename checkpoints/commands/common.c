/*
 * common.c - see common.h.
 */
#include "checkpoints/commands/common.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pc_verify_mode convert_verify_mode(const char *word)
{
    for (int i = 0; pc_verify_modes[i]; i++)
        if (!strcmp(pc_verify_modes[i], word)) return (pc_verify_mode)i;
    return PC_VERIFY_AUTO;
}

pc_status convert_bytes(int64_t *out, const char *text, const char *flag)
{
    static const struct {
        const char *unit;
        double size;
    } units[] = {{"", 1}, {"B", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
    char *end;
    errno = 0;
    const double value = strtod(text, &end);
    char unit[4] = "";
    size_t n = strlen(end);
    for (size_t i = 0; i < n && i < sizeof unit - 1; i++)
        unit[i] = (char)toupper((unsigned char)end[i]);
    for (size_t i = 0; end != text && n < sizeof unit && i < sizeof units / sizeof *units; i++)
        if (!strcmp(unit, units[i].unit) && value * units[i].size >= 1.0 &&
            value * units[i].size < 9e18) {
            *out = (int64_t)(value * units[i].size);
            return PC_OK;
        }
    return pc_fail(PC_ERR_USAGE, "--%s: '%s'; expected a size such as 5GB or 300MB", flag, text);
}

void convert_done(const char *path, const pc_verify_report *r)
{
    char text[400];
    printf("%s: %s\n", path, pc_verify_text(text, sizeof text, r));
}
