// GGUF IQ3_S: 256 weights in 110 bytes: fp16 d, 64 low bytes of grid entries of 4 weights, their upper bits in 8 bytes, 32 bytes
// of signs, 4-bit scales of 32 weights. weight = grid * sign * d * (1 + 2 * scale).
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 55
#define ENTRY 4
TABLE16(VALUES, 1.0f, 3.0f, 5.0f, 7.0f, 9.0f, 11.0f, 13.0f, 15.0f, 1.0f, 3.0f, 5.0f, 7.0f, 9.0f, 11.0f, 13.0f, 15.0f);
#include "quants/grids.h"

inline eight_codes codes(weights w, vint i, vint l) {
    vuint low = ld(w.w, i + l + 1), high = ld(w.w, i + l / 8 + 33) >> vuint(l % 8 * 2);
    vuint signs = ld(w.w, i + l / 2 + 37), scales = ld(w.w, i + l / 16 + 53);
    vfloat d = vfloat(ld(dptr<const half>(w.w), i));
    eight_codes e;
    e.low = (low & 255u) | (high & 1u) << 8;
    e.high = low >> 8 | (high & 2u) << 7;
    e.signs = signs >> vuint(l % 2 * 8);
    e.scale = d * (number(scales >> vuint(l / 4 % 4 * 4) & 15u) * 2.0f + 1.0f);
    return e;
}
#include "quants/grid_reads.h"
