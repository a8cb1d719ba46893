// GGUF Q4_0: 32 weights in 18 bytes: fp16 d, then byte i holds weight i (low nibble) and i + 16 (high).
// weight = (code - 8) * d. Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define IN_ORDER 1
#define SCALES 1
#define OFFSET 1
struct weights { dptr<const ushort> w; };
#include "quants/nibbles.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 9) + k / 32 * 9)}; }

inline chunk load(weights w, vlane lane, int n) {
    chunk q = nibbles(ld_pair(w.w, spread<4, 9, 2>(lane) + 1, first(lane, n / 8)));
    q.scale = vfloat(ld(dptr<const half>(w.w), spread<4, 9, 0>(lane), first(lane, n / 8)));
    q.offset = q.scale * -8.0f;
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 72); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 9) + k / 32 * 9;
    vuint4 front = ld_words(w.w, i), codes = ld_words(w.w, i + 1);        // d comes with the first words
    block b;
    scaled_nibbles(b, codes, half_lo(front.x), half_lo(front.x) * -8.0f);
    return b;
}
#define CODES 4
inline codes32 codes(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 9) + k / 32 * 9;
    vfloat d = half_lo(ld_words(w.w, i).x);
    return nibble_codes(ld_words(w.w, i + 1), d, d * -8.0f);
}
