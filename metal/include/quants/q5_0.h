// GGUF Q5_0: 32 weights in 22 bytes: fp16 d, 32 fifth bits, then nibbles as in Q4_0. weight = (code - 16) * d.
// Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/by32.h"
#define GROUPS 8
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define ZERO 16
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 11) + k / 32 * 11)}; }
inline void ahead(weights w) { prefetch(w.w, 88); }
inline held<88> units(weights w, int n) { return ld_held<88>(w.w, n / 32 * 11); }
inline vfloat factors(weights w, vlane lane, int n) { return ld_half(units(w, n), spread<2, 11, 0, 1, 0, 2, 16>(lane)); }
inline nibble_word word(weights w, vlane lane, int n) {
    nibble_word t;
    t.w = ld_pair(units(w, n), spread<4, 11, 2, 1, 3>(lane));
    t.scale = ld_half(units(w, n), spread<4, 11, 0>(lane));
    t.offset = t.scale * -16.0f;
    return t;
}
inline vuint high(weights w, vlane lane, int n) { return ld_pair(units(w, n), spread<4, 11, 0, 1, 1>(lane)); }
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 11) + k / 32 * 11;
    vfloat d = half_lo(ld_words(w.w, i).x);
    return nibble_block{ld_words(w.w, i + 3), d, d * -16.0f};
}
inline vuint high(weights w, vint row, int k, int K) {
    vuint4 front = ld_words(w.w, row * (K / 32 * 11) + k / 32 * 11);     // the same words as those of d
    return front.x >> 16 | front.y << 16;
}
#include "quants/fifths.h"
