// GGUF IQ2_XS: 256 weights in 74 bytes: fp16 d, for each 8 weights 9 bits of a grid entry and 7 signs, then 4-bit scales of 16
// weights. weight = grid * sign * d * (0.5 + scale) / 4.
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 37
#include "quants/iq2_values.h"

inline eight_codes codes(weights w, vint i, vint l) {
    vuint code = ld(w.w, i + l + 1), scales = ld(w.w, i + l / 8 + 33);
    vfloat d = vfloat(ld(dptr<const half>(w.w), i));
    eight_codes e;
    e.low = code & 511u;
    e.signs = even(code >> 9);
    e.scale = d * (number(scales >> vuint(l / 2 % 4 * 4) & 15u) + 0.5f) * 0.25f;
    return e;
}
#include "quants/grid_reads.h"
