// GGUF Q4_1: 32 weights in 20 bytes: fp16 d and m, then byte i holds weight i (low nibble) and i + 16 (high).
// weight = code * d + m. A lane has one of the 4 code words of one of 8 blocks.
#include "quants/stored.h"
#include "quants/by32.h"
#define GROUPS 8
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define ZERO 0
struct weights { dptr<const uint> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 5) + k / 32 * 5)}; }
inline void ahead(weights w) { prefetch(w.w, 40); }
inline vfloat factors(weights w, vlane lane, int n) { return vfloat(ld(dptr<const half>(w.w), spread<2, 10, 1, 1, 0, 2, 16>(lane), first(lane, n / 16))); }
inline nibble_word word(weights w, vlane lane, int n) {
    vuint dm = ld(w.w, spread<4, 5, 0>(lane), first(lane, n / 8));
    nibble_word t;
    t.w = ld(w.w, spread<4, 5>(lane) + 1, first(lane, n / 8));
    t.scale = half_lo(dm);
    t.offset = half_hi(dm);
    return t;
}
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 5) + k / 32 * 5;
    vuint dm = ld_words(w.w, i).x;                                        // d and m come with the first words
    return nibble_block{ld_words(w.w, i + 1), half_lo(dm), half_hi(dm)};
}
#include "quants/nibbles.h"
