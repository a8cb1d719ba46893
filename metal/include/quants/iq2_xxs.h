// GGUF IQ2_XXS: 256 weights in 66 bytes: fp16 d, then for each 32 weights a word of four grid entries of 8 weights, and one
// of four times 7 signs and a scale on top. weight = grid * sign * d * (0.5 + scale) / 4.
#include "quants/stored.h"
#include "quants/eights.h"
#define UNITS 33
#include "quants/iq2_values.h"

template <typename P> inline eight_codes codes(weights w, P b) {
    vuint entries = pair<4, 4>(w, b, 1), rest = pair<4, 4>(w, b, 3);
    vfloat d = factor(w, b);
    vint l = number_of(b);
    eight_codes e;
    e.low = entries >> vuint(l % 4 * 8) & 255u;
    e.signs = even(rest >> vuint(l % 4 * 7) & 127u);
    e.scale = d * (number(rest >> 28) + 0.5f) * 0.25f;
    return e;
}
#include "quants/grid_reads.h"
