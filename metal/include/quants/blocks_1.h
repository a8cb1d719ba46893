// Q4_1 and Q5_1: 32 weights in UNITS words: fp16 d and m, for Q5_1 (FIFTHS 1) 32 fifth bits, then 16 bytes: byte i holds weight i
// (low nibble) and i + 16 (high). weight = code * d + m. A lane has one of the 4 words of nibbles of one of 8 blocks.
#include "quants/stored.h"
#include "quants/by32.h"
#define GROUPS 8
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define UNITS (5 + FIFTHS)
#define FIRST (1 + FIFTHS)                                // of the words of nibbles
#define ZERO 0
#if FIFTHS
#define SIDE 1                                            // more need more registers than there are
#endif
struct weights { dptr<const uint> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * UNITS) + k / 32 * UNITS)}; }
inline void ahead(weights w) { prefetch(w.w, 8 * UNITS); }
inline vfloat factors(weights w, vlane lane, int n) {
    return vfloat(ld(dptr<const half>(w.w), spread<2, 2 * UNITS, 1, 1, 0, 2, 16>(lane), first(lane, n / 16)));
}
inline nibble_word word(weights w, vlane lane, int n) {
    vuint dm = ld(w.w, spread<4, UNITS, 0>(lane), first(lane, n / 8));
    nibble_word t;
    t.w = ld(w.w, spread<4, UNITS>(lane) + FIRST, first(lane, n / 8));
    t.scale = half_lo(dm);
    t.offset = half_hi(dm);
    return t;
}
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * UNITS) + k / 32 * UNITS;
    vuint dm = ld_words(w.w, i).x;                                        // d and m come with the first words
    return nibble_block{ld_words(w.w, i + FIRST), half_lo(dm), half_hi(dm)};
}
#if FIFTHS
inline vuint high(weights w, vlane lane, int n) { return ld(w.w, spread<4, UNITS, 0>(lane) + 1, first(lane, n / 8)); }
inline vuint high(weights w, vint row, int k, int K) { return ld_words(w.w, row * (K / 32 * UNITS) + k / 32 * UNITS).y; }
#include "quants/fifths.h"
#else
#include "quants/nibbles.h"
#endif
