// GGUF Q4_K: 256 weights in 144 bytes: fp16 d and dmin, 12 bytes of scales and minima, 128 bytes of nibbles: 32 bytes have
// 32 weights in their low halves, then 32 in the high ones. weight = code * d * scale - dmin * minimum.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define OFFSET 1
struct weights { dptr<const uint> w; };
#include "quants/bytes.h"
#include "quants/k_scales.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 36) + k / 256 * 36)}; }

inline chunk load(weights w, vlane lane, int) {
    vuint shift = vuint(vint(lane) / 4 % 2 * 4);
    vuint a = ld(w.w, spread<8, 8, 2, 1, 0, 4>(lane) + 4), b = ld(w.w, spread<8, 8, 2, 1, 0, 4>(lane) + 5);
    chunk q = in_bytes(a >> shift & 0x0f0f0f0fu, b >> shift & 0x0f0f0f0fu);
    scaling s = k_scales(w.w, lane);
    q.scale = s.scale;
    q.offset = s.offset;
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 36); }
inline block decode(weights w, vint row, int k, int K) {
    int j = k % 256 / 32, shift = j % 2 * 4;
    vint i = row * (K / 256 * 36) + k / 256 * 36;
    scaling s = k_scales(ld_words(w.w, i), j);
    block b;
    UNROLL for (int h = 0; h < 2; ++h) {
        vuint4 q = ld_words(w.w, i + (4 + j / 2 * 8 + h * 4));
        scaled_word(b, 16 * h, q.x >> shift & 0x0f0f0f0fu, s.scale, s.offset);
        scaled_word(b, 16 * h + 4, q.y >> shift & 0x0f0f0f0fu, s.scale, s.offset);
        scaled_word(b, 16 * h + 8, q.z >> shift & 0x0f0f0f0fu, s.scale, s.offset);
        scaled_word(b, 16 * h + 12, q.w >> shift & 0x0f0f0f0fu, s.scale, s.offset);
    }
    return b;
}
#define CODES 4
inline codes32 codes(weights w, vint row, int k, int K) {
    int j = k % 256 / 32, shift = j % 2 * 4;
    vint i = row * (K / 256 * 36) + k / 256 * 36;
    scaling s = k_scales(ld_words(w.w, i), j);
    vuint4 a = ld_words(w.w, i + (4 + j / 2 * 8)), b = ld_words(w.w, i + (8 + j / 2 * 8));
    codes32 c;
    c.c[0] = a.x; c.c[1] = a.y; c.c[2] = a.z; c.c[3] = a.w;
    c.c[4] = b.x; c.c[5] = b.y; c.c[6] = b.z; c.c[7] = b.w;
    UNROLL for (int n = 0; n < 8; ++n) c.c[n] = c.c[n] >> shift & 0x0f0f0f0fu;
    c.scale = s.scale;
    c.offset = s.offset;
    return c;
}
