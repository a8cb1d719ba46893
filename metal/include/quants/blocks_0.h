// Q4_0 and Q5_0: 32 weights in UNITS units of 16 bits: fp16 d, for Q5_0 (FIFTHS 1) 32 fifth bits, then 16 bytes: byte i holds
// weight i (low nibble) and i + 16 (high). weight = (code - ZERO) * d. Blocks are 2-byte aligned: words are read as pairs of units.
#include "quants/stored.h"
#include "quants/by32.h"
#define GROUPS 8
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define UNITS (9 + 2 * FIFTHS)
#define FIRST (1 + 2 * FIFTHS)                            // of the units that have nibbles
#define ZERO (8 << FIFTHS)
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * UNITS) + k / 32 * UNITS)}; }
inline void ahead(weights w) { prefetch(w.w, 8 * UNITS); }
inline held<8 * UNITS> units(weights w, int n) { return ld_held<8 * UNITS>(w.w, n / 32 * UNITS); }
inline vfloat factors(weights w, vlane lane, int n) { return ld_half(units(w, n), spread<2, UNITS, 0, 1, 0, 2, 16>(lane)); }
inline nibble_word word(weights w, vlane lane, int n) {
    nibble_word t;
    t.w = ld_pair(units(w, n), spread<4, UNITS, 2, 1, FIRST>(lane));
    t.scale = ld_half(units(w, n), spread<4, UNITS, 0>(lane));
    t.offset = t.scale * -float(ZERO);
    return t;
}
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * UNITS) + k / 32 * UNITS;
    vfloat d = half_lo(ld_words(w.w, i).x);                               // d comes with the first words
    return nibble_block{ld_words(w.w, i + FIRST), d, d * -float(ZERO)};
}
#if FIFTHS
inline vuint high(weights w, vlane lane, int n) { return ld_pair(units(w, n), spread<4, UNITS, 0, 1, 1>(lane)); }
inline vuint high(weights w, vint row, int k, int K) {
    vuint4 front = ld_words(w.w, row * (K / 32 * UNITS) + k / 32 * UNITS);     // the same words as those of d
    return front.x >> 16 | front.y << 16;
}
#include "quants/fifths.h"
#else
#include "quants/nibbles.h"
#endif
