// GGUF Q5_0: 32 weights in 22 bytes: fp16 d, 32 fifth bits, then nibbles as in Q4_0. weight = (code - 16) * d.
// Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define IN_ORDER 1
#define SCALES 1
#define OFFSET 1
struct weights { dptr<const ushort> w; };
#include "quants/fifths.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 11) + k / 32 * 11)}; }

inline chunk load(weights w, vlane lane, int n) {
    vuint high = ld_pair(w.w, spread<4, 11, 0>(lane) + 1, first(lane, n / 8));
    chunk q = five_bits(ld_pair(w.w, spread<4, 11, 2>(lane) + 3, first(lane, n / 8)), high, vint(lane) % 4);
    q.scale = vfloat(ld(dptr<const half>(w.w), spread<4, 11, 0>(lane), first(lane, n / 8)));
    q.offset = q.scale * -16.0f;
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 88); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 11) + k / 32 * 11;
    vuint4 front = ld_words(w.w, i), codes = ld_words(w.w, i + 3);        // d and the fifth bits come with the first words
    block b;
    scaled_fifths(b, codes, front.x >> 16 | front.y << 16, half_lo(front.x), half_lo(front.x) * -16.0f);
    return b;
}
