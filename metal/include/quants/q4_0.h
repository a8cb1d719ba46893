// GGUF Q4_0: 32 weights in 18 bytes: fp16 d, then byte i holds weight i (low nibble) and i + 16 (high).
// weight = (code - 8) * d. Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/by32.h"
#define GROUPS 8
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define ZERO 8
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 9) + k / 32 * 9)}; }
inline void ahead(weights w) { prefetch(w.w, 72); }
inline held<72> units(weights w, int n) { return ld_held<72>(w.w, n / 32 * 9); }
inline vfloat factors(weights w, vlane lane, int n) { return ld_half(units(w, n), spread<2, 9, 0, 1, 0, 2, 16>(lane)); }
inline nibble_word word(weights w, vlane lane, int n) {
    nibble_word t;
    t.w = ld_pair(units(w, n), spread<4, 9, 2, 1, 1>(lane));
    t.scale = ld_half(units(w, n), spread<4, 9, 0>(lane));
    t.offset = t.scale * -8.0f;
    return t;
}
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 9) + k / 32 * 9;
    vfloat d = half_lo(ld_words(w.w, i).x);                               // d comes with the first words
    return nibble_block{ld_words(w.w, i + 1), d, d * -8.0f};
}
#include "quants/nibbles.h"
