// GGUF Q2_K: 256 weights in 84 bytes: 16 bytes with the 4-bit scale (low) and minimum of 16 weights, 64 bytes of 2-bit codes
// (of each half, four planes of 32), fp16 d and dmin. weight = code * d * scale - dmin * minimum.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define CODES 2
#define OFFSET 1
#define ZERO 0
#if REGISTERS == 16
#define GROUPS 16                                         // else there are lanes enough for each to make its scale
#define WHOLE 1
#endif
struct weights { dptr<const uint> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 21) + k / 256 * 21)}; }
inline void ahead(weights w) { prefetch(w.w, 21); }
#if GROUPS
inline vint factor_of(vlane lane) { return vint(lane) / 2; }
inline vint lane_of(vint factor) { return factor * 2; }
inline vuint scale_pairs(weights w, vlane lane) {
    return pick_bytes(dptr<const uchar>(w.w), vuint(factor_of(lane) * 0x00010001)) & 0x000f000fu;
}
inline vfloat offsets(weights w, vlane lane) { return number(pick_bytes(dptr<const uchar>(w.w), vuint(vint(lane) % 16)) & 0xf0u); }
inline vfloat step_scale(weights w, vlane lane) { return evens(ld(dptr<const half>(w.w), spread<2, 0>(lane) + 40), lane); }
inline vfloat step_offset(weights w, vlane lane) { return odds(ld(dptr<const half>(w.w), spread<2, 0>(lane) + 40), lane) * 0.0625f; }
#endif
inline eight_bytes load_bytes(weights w, vlane lane, int) {
    vuint s2 = vuint(vint(lane) / 4 % 4 * 2);
    vuint both = ld(w.w, spread<8, 1, 0>(lane)) >> vuint(vint(lane) / 2 % 4 * 8);
    uint dm = w.w[20];
    eight_bytes e;
    vuint2 q = ld_two<1>(w.w, spread<16, 8, 2, 1, 0, 4>(lane) + 4);
    e.a = q.x >> s2 & 0x03030303u;
    e.b = q.y >> s2 & 0x03030303u;
    e.scale = number(both & 15u) * half_lo(dm);
    e.offset = number(both >> 4 & 15u) * -half_hi(dm);
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    int half_of = k % 256 / 128, j = k % 256 / 32, s2 = j % 4 * 2;
    vint i = row * (K / 256 * 21) + k / 256 * 21;
    vuint both = ld(w.w, i + j / 2) >> (j % 2 * 16), dm = ld(w.w, i + 20);
    codes32 c;
    UNROLL for (int h = 0; h < 2; ++h) {
        put4(c, 4 * h, masked(ld_words(w.w, i + (4 + half_of * 8 + h * 4)), s2, 0x03030303u));
        c.scale[h] = number(both >> (8 * h) & 15u) * half_lo(dm);
        c.offset[h] = number(both >> (8 * h + 4) & 15u) * -half_hi(dm);
    }
    return c;
}
#include "quants/bytes.h"
