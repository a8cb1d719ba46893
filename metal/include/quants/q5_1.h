// GGUF Q5_1: 32 weights in 24 bytes: fp16 d and m, 32 fifth bits, then nibbles as in Q4_1. weight = code * d + m.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define IN_ORDER 1
#define SCALES 1
#define OFFSET 1
struct weights { dptr<const uint> w; };
#include "quants/fifths.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 6) + k / 32 * 6)}; }

inline chunk load(weights w, vlane lane, int n) {
    vuint dm = ld(w.w, spread<4, 6, 0>(lane), first(lane, n / 8)), high = ld(w.w, spread<4, 6, 0>(lane) + 1, first(lane, n / 8));
    chunk q = five_bits(ld(w.w, spread<4, 6>(lane) + 2, first(lane, n / 8)), high, vint(lane) % 4);
    q.scale = half_lo(dm);
    q.offset = half_hi(dm);
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 48); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 6) + k / 32 * 6;
    vuint4 front = ld_words(w.w, i), codes = ld_words(w.w, i + 2);
    block b;
    scaled_fifths(b, codes, front.y, half_lo(front.x), half_hi(front.x));
    return b;
}
