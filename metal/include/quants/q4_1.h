// GGUF Q4_1: 32 weights in 20 bytes: fp16 d and m, then byte i holds weight i (low nibble) and i + 16 (high).
// weight = code * d + m. A lane has one of the 4 code words of one of 8 blocks.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define IN_ORDER 1
#define SCALES 1
#define OFFSET 1
struct weights { dptr<const uint> w; };
#include "quants/nibbles.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 5) + k / 32 * 5)}; }

inline chunk load(weights w, vlane lane, int n) {
    vuint dm = ld(w.w, spread<4, 5, 0>(lane), first(lane, n / 8));
    chunk q = nibbles(ld(w.w, spread<4, 5>(lane) + 1, first(lane, n / 8)));
    q.scale = half_lo(dm);
    q.offset = half_hi(dm);
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 40); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 5) + k / 32 * 5;
    vuint4 front = ld_words(w.w, i), codes = ld_words(w.w, i + 1);        // d and m come with the first words
    block b;
    scaled_nibbles(b, codes, half_lo(front.x), half_hi(front.x));
    return b;
}
#define CODES 4
inline codes32 codes(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 5) + k / 32 * 5;
    vuint4 front = ld_words(w.w, i);
    return nibble_codes(ld_words(w.w, i + 1), half_lo(front.x), half_hi(front.x));
}
