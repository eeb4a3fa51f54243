/*
 * webp.c - WebP through libwebp; of an animation the first picture.
 */
#include "data/images/decode.h"

#include <stdlib.h>
#include <webp/decode.h>
#include <webp/demux.h>

static void to_rgb(uint8_t *rgb, const uint8_t *rgba, int64_t n, bool drop_alpha)
{
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] =
                drop_alpha ? rgba[4 * i + c] : pc_over_white(rgba[4 * i + c], rgba[4 * i + 3]);
}

static pc_status first_picture(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha)
{
    const WebPData data = {bytes, size};
    WebPAnimDecoder *a = WebPAnimDecoderNew(&data, NULL);
    uint8_t *rgba = NULL;
    int when = 0;
    if (!a) return pc_fail(PC_ERR_FORMAT, "WebP: the animation is damaged");
    const bool ok = WebPAnimDecoderGetNext(a, &rgba, &when) != 0;
    if (ok) to_rgb(out->rgb, rgba, out->width * out->height, drop_alpha);
    WebPAnimDecoderDelete(a);
    return ok ? PC_OK : pc_fail(PC_ERR_FORMAT, "WebP: the first picture is damaged or cut short");
}

pc_status pc_webp_decode(pc_image *out, const uint8_t *bytes, size_t size, bool drop_alpha)
{
    WebPBitstreamFeatures f;
    const VP8StatusCode code = WebPGetFeatures(bytes, size, &f);
    if (code == VP8_STATUS_NOT_ENOUGH_DATA)
        return pc_fail(PC_ERR_FORMAT, "WebP: the file is cut short");
    if (code != VP8_STATUS_OK) return pc_fail(PC_ERR_FORMAT, "WebP: the header is damaged");
    pc_status st = pc_image_alloc(out, f.width, f.height);
    if (st) return st;
    if (f.has_animation) return first_picture(out, bytes, size, drop_alpha);

    const size_t pixels = (size_t)(out->width * out->height);
    if (!f.has_alpha) {
        if (!WebPDecodeRGBInto(bytes, size, out->rgb, 3 * pixels, (int)(3 * out->width)))
            return pc_fail(PC_ERR_FORMAT, "WebP: the picture is damaged or cut short");
        return PC_OK;
    }
    uint8_t *rgba = malloc(4 * pixels);
    if (!rgba) return pc_fail(PC_ERR_MEMORY, "%zu bytes of an image", 4 * pixels);
    if (WebPDecodeRGBAInto(bytes, size, rgba, 4 * pixels, (int)(4 * out->width)))
        to_rgb(out->rgb, rgba, (int64_t)pixels, drop_alpha);
    else
        st = pc_fail(PC_ERR_FORMAT, "WebP: the picture is damaged or cut short");
    free(rgba);
    return st;
}
