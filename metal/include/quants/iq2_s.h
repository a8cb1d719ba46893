// GGUF IQ2_S: 256 weights in 82 bytes: fp16 d, 32 low bytes of grid entries of 8 weights, 32 bytes of signs, the entries'
// upper two bits in 8 bytes, 4-bit scales of 16 weights. weight = grid * sign * d * (0.5 + scale) / 4.
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 41
#include "quants/iq2_values.h"

template <typename P> inline eight_codes codes(weights w, P b) {
    vuint low = byte(w, b, 2), signs = byte(w, b, 34), high = unit<8, 1>(w, b, 33), scales = unit<8, 1>(w, b, 37);
    vfloat d = factor(w, b);
    vint l = number_of(b);
    eight_codes e;
    e.low = low | (high >> vuint(l % 8 * 2) & 3u) << 8;
    e.signs = signs;
    e.scale = d * (number(scales >> vuint(l / 2 % 4 * 4) & 15u) + 0.5f) * 0.25f;
    return e;
}
#include "quants/grid_reads.h"
