// GGUF IQ3_XXS: 256 weights in 98 bytes: fp16 d, 64 bytes of grid entries of 4 weights, then for each 32 weights a word of four
// times 7 signs and a scale on top. weight = grid * sign * d * (0.5 + scale) / 2.
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 49
#define ENTRY 4
#define EACH_SIZE(V) V(4), V(12), V(20), V(28), V(36), V(44), V(52), V(62)
#define ZERO 64
#define CODES 7
#include "quants/grids.h"

template <typename P> inline eight_codes codes(weights w, P b) {
    vuint entries = unit<1, 1>(w, b, 1), rest = pair<4, 2>(w, b, 33);
    vfloat d = factor(w, b);
    vint l = number_of(b);
    eight_codes e;
    e.low = entries & 255u;
    e.high = entries >> 8;
    e.signs = even(rest >> vuint(l % 4 * 7) & 127u);
    e.scale = d * (number(rest >> 28) + 0.5f) * 0.5f;
    return e;
}
#include "quants/grid_reads.h"
