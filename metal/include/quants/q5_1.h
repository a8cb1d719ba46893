// GGUF Q5_1: 32 weights in 24 bytes: fp16 d and m, 32 fifth bits, then nibbles as in Q4_1. weight = code * d + m.
#include "quants/stored.h"
#include "quants/by32.h"
#define GROUPS 8
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define ZERO 0
#define SIDE 1                                            // more need more registers than there are
struct weights { dptr<const uint> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 6) + k / 32 * 6)}; }
inline void ahead(weights w) { prefetch(w.w, 48); }
inline vfloat factors(weights w, vlane lane, int n) { return vfloat(ld(dptr<const half>(w.w), spread<2, 12, 1, 1, 0, 2, 16>(lane), first(lane, n / 16))); }
inline nibble_word word(weights w, vlane lane, int n) {
    vuint dm = ld(w.w, spread<4, 6, 0>(lane), first(lane, n / 8));
    nibble_word t;
    t.w = ld(w.w, spread<4, 6>(lane) + 2, first(lane, n / 8));
    t.scale = half_lo(dm);
    t.offset = half_hi(dm);
    return t;
}
inline vuint high(weights w, vlane lane, int n) { return ld(w.w, spread<4, 6, 0>(lane) + 1, first(lane, n / 8)); }
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 6) + k / 32 * 6;
    vuint dm = ld_words(w.w, i).x;
    return nibble_block{ld_words(w.w, i + 2), half_lo(dm), half_hi(dm)};
}
inline vuint high(weights w, vint row, int k, int K) { return ld_words(w.w, row * (K / 32 * 6) + k / 32 * 6).y; }
#include "quants/fifths.h"
