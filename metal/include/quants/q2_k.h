// GGUF Q2_K: 256 weights in 84 bytes: 16 bytes with the 4-bit scale (low) and minimum of 16 weights, 64 bytes of 2-bit codes
// (of each half, four planes of 32), fp16 d and dmin. weight = code * d * scale - dmin * minimum.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define OFFSET 1
struct weights { dptr<const uint> w; };
#include "quants/bytes.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 21) + k / 256 * 21)}; }

inline chunk load(weights w, vlane lane, int) {
    vuint s2 = vuint(vint(lane) / 4 % 4 * 2);
    vuint a = ld(w.w, spread<16, 8, 2, 1, 0, 4>(lane) + 4), b = ld(w.w, spread<16, 8, 2, 1, 0, 4>(lane) + 5);
    chunk q = in_bytes(a >> s2 & 0x03030303u, b >> s2 & 0x03030303u);
    vuint both = ld(w.w, spread<8, 1, 0>(lane)) >> vuint(vint(lane) / 2 % 4 * 8);
    uint dm = w.w[20];
    q.scale = number(both & 15u) * half_lo(dm);
    q.offset = number(both >> 4 & 15u) * -half_hi(dm);
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 21); }
inline block decode(weights w, vint row, int k, int K) {
    int half_of = k % 256 / 128, j = k % 256 / 32, s2 = j % 4 * 2;
    vint i = row * (K / 256 * 21) + k / 256 * 21;
    vuint both = ld(w.w, i + j / 2) >> (j % 2 * 16), dm = ld(w.w, i + 20);
    block b;
    UNROLL for (int h = 0; h < 2; ++h) {
        vuint4 q = ld_words(w.w, i + (4 + half_of * 8 + h * 4));
        vfloat scale = number(both >> (8 * h) & 15u) * half_lo(dm), offset = number(both >> (8 * h + 4) & 15u) * -half_hi(dm);
        scaled_word(b, 16 * h, q.x >> s2 & 0x03030303u, scale, offset);
        scaled_word(b, 16 * h + 4, q.y >> s2 & 0x03030303u, scale, offset);
        scaled_word(b, 16 * h + 8, q.z >> s2 & 0x03030303u, scale, offset);
        scaled_word(b, 16 * h + 12, q.w >> s2 & 0x03030303u, scale, offset);
    }
    return b;
}
