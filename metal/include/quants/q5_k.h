// GGUF Q5_K: 256 weights in 176 bytes: as Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte i is that of
// weight 32 j + i.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define OFFSET 1
struct weights { dptr<const uint> w; };
#include "quants/bytes.h"
#include "quants/k_scales.h"
#define FIVE(low, high, shift, j) (((low) >> shift & 0x0f0f0f0fu) | ((high) >> j & 0x01010101u) << 4)

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 44) + k / 256 * 44)}; }

inline chunk load(weights w, vlane lane, int) {
    vuint shift = vuint(vint(lane) / 4 % 2 * 4), j = vuint(vint(lane) / 4);
    vuint a = ld(w.w, spread<8, 8, 2, 1, 0, 4>(lane) + 12), b = ld(w.w, spread<8, 8, 2, 1, 0, 4>(lane) + 13);
    vuint c = ld(w.w, spread<4, 0, 2>(lane) + 4), d = ld(w.w, spread<4, 0, 2>(lane) + 5);
    chunk q = in_bytes(FIVE(a, c, shift, j), FIVE(b, d, shift, j));
    scaling s = k_scales(w.w, lane);
    q.scale = s.scale;
    q.offset = s.offset;
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 44); }
inline block decode(weights w, vint row, int k, int K) {
    int j = k % 256 / 32, shift = j % 2 * 4;
    vint i = row * (K / 256 * 44) + k / 256 * 44;
    scaling s = k_scales(ld_words(w.w, i), j);
    block b;
    UNROLL for (int h = 0; h < 2; ++h) {
        vuint4 q = ld_words(w.w, i + (12 + j / 2 * 8 + h * 4)), high = ld_words(w.w, i + (4 + h * 4));
        scaled_word(b, 16 * h, FIVE(q.x, high.x, shift, j), s.scale, s.offset);
        scaled_word(b, 16 * h + 4, FIVE(q.y, high.y, shift, j), s.scale, s.offset);
        scaled_word(b, 16 * h + 8, FIVE(q.z, high.z, shift, j), s.scale, s.offset);
        scaled_word(b, 16 * h + 12, FIVE(q.w, high.w, shift, j), s.scale, s.offset);
    }
    return b;
}
