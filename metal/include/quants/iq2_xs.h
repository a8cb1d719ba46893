// GGUF IQ2_XS: 256 weights in 74 bytes: fp16 d, for each 8 weights 9 bits of a grid entry and 7 signs, then 4-bit scales of 16
// weights. weight = grid * sign * d * (0.5 + scale) / 4.
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 37
#include "quants/iq2_values.h"

template <typename P> inline eight_codes codes(weights w, P b) {
    vuint code = unit<1, 1>(w, b, 1), scales = unit<8, 1>(w, b, 33);
    vfloat d = factor(w, b);
    vint l = number_of(b);
    eight_codes e;
    e.low = code & 511u;
    e.signs = even(code >> 9);
    e.scale = d * (number(scales >> vuint(l / 2 % 4 * 4) & 15u) + 0.5f) * 0.25f;
    return e;
}
#include "quants/grid_reads.h"
