// GGUF IQ2_S: 256 weights in 82 bytes: fp16 d, 32 low bytes of grid entries of 8 weights, 32 bytes of signs, the entries'
// upper two bits in 8 bytes, 4-bit scales of 16 weights. weight = grid * sign * d * (0.5 + scale) / 4.
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 41
#include "quants/iq2_values.h"

inline eight_codes codes(weights w, vint i, vint l) {
    vuint low = ld(w.w, i + l / 2 + 1), signs = ld(w.w, i + l / 2 + 17), high = ld(w.w, i + l / 8 + 33), scales = ld(w.w, i + l / 8 + 37);
    vfloat d = vfloat(ld(dptr<const half>(w.w), i));
    vuint byte = vuint(l % 2 * 8);
    eight_codes e;
    e.low = (low >> byte & 255u) | (high >> vuint(l % 8 * 2) & 3u) << 8;
    e.signs = signs >> byte;
    e.scale = d * (number(scales >> vuint(l / 2 % 4 * 4) & 15u) + 0.5f) * 0.25f;
    return e;
}
#include "quants/grid_reads.h"
