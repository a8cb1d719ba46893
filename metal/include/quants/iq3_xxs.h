// GGUF IQ3_XXS: 256 weights in 98 bytes: fp16 d, 64 bytes of grid entries of 4 weights, then for each 32 weights a word of four
// times 7 signs and a scale on top. weight = grid * sign * d * (0.5 + scale) / 2.
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 49
#define ENTRY 4
TABLE16(VALUES, 4.0f, 12.0f, 20.0f, 28.0f, 36.0f, 44.0f, 52.0f, 62.0f, 4.0f, 12.0f, 20.0f, 28.0f, 36.0f, 44.0f, 52.0f, 62.0f);
#include "quants/grids.h"

inline eight_codes codes(weights w, vint i, vint l) {
    vuint entries = ld(w.w, i + l + 1), rest = ld_pair(w.w, i + l / 4 * 2 + 33);
    vfloat d = vfloat(ld(dptr<const half>(w.w), i));
    eight_codes e;
    e.low = entries & 255u;
    e.high = entries >> 8;
    e.signs = even(rest >> vuint(l % 4 * 7) & 127u);
    e.scale = d * (number(rest >> 28) + 0.5f) * 0.5f;
    return e;
}
#include "quants/grid_reads.h"
