// GGUF IQ3_S: 256 weights in 110 bytes: fp16 d, 64 low bytes of grid entries of 4 weights, their upper bits in 8 bytes, 32 bytes
// of signs, 4-bit scales of 32 weights. weight = grid * sign * d * (1 + 2 * scale).
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 55
#define ENTRY 4
#define EACH_SIZE(V) V(1), V(3), V(5), V(7), V(9), V(11), V(13), V(15)
#define ZERO 16
#define CODES 5
#include "quants/grids.h"

template <typename P> inline eight_codes codes(weights w, P b) {
    vuint low = unit<1, 1>(w, b, 1), high = unit<8, 1>(w, b, 33);
    vuint signs = byte(w, b, 74), scales = unit<16, 1>(w, b, 53);
    vfloat d = factor(w, b);
    vint l = number_of(b);
    eight_codes e;
    high = high >> vuint(l % 8 * 2);
    e.low = (low & 255u) | (high & 1u) << 8;
    e.high = low >> 8 | (high & 2u) << 7;
    e.signs = signs;
    e.scale = d * (number(scales >> vuint(l / 4 % 4 * 4) & 15u) * 2.0f + 1.0f);
    return e;
}
#include "quants/grid_reads.h"
