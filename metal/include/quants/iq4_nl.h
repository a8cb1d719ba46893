// GGUF IQ4_NL: 32 weights in 18 bytes: fp16 d, then nibbles as in Q4_0. weight = VALUES[code] * d.
// Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
struct weights { dptr<const ushort> w; };
#include "quants/iq4_values.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 9) + k / 32 * 9)}; }

inline chunk load(weights w, vlane lane, int n) {
    chunk q = from_values(ld_pair(w.w, spread<4, 9, 2>(lane) + 1, first(lane, n / 8)));
    q.scale = vfloat(ld(dptr<const half>(w.w), spread<4, 9, 0>(lane), first(lane, n / 8)));
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 72); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 9) + k / 32 * 9;
    vuint4 front = ld_words(w.w, i), codes = ld_words(w.w, i + 1);        // d comes with the first words
    block b;
    scaled_values(b, codes, half_lo(front.x));
    return b;
}
