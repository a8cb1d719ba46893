// GGUF IQ4_NL: 32 weights in 18 bytes: fp16 d, then nibbles as in Q4_0. weight = value of the code * d.
// Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/by32.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 9) + k / 32 * 9)}; }
inline void ahead(weights w) { prefetch(w.w, 72); }
inline held<72> units(weights w, int n) { return ld_held<72>(w.w, n / 32 * 9); }
inline nibble_word word(weights w, vlane lane, int n) {
    nibble_word t;
    t.w = ld_pair(units(w, n), spread<4, 9, 2, 1, 1>(lane));
    t.scale = ld_half(units(w, n), spread<4, 9, 0>(lane));
    return t;
}
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 9) + k / 32 * 9;
    vfloat d = half_lo(ld_words(w.w, i).x);                               // d comes with the first words
    return nibble_block{ld_words(w.w, i + 1), d, vfloat(0.0f)};
}
#include "quants/iq4_values.h"
