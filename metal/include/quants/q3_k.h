// GGUF Q3_K: 256 weights in 110 bytes: 32 bytes of third bits (bit j of byte i: weight 32 j + i), 64 of two lower bits (of
// each half, four planes of 32), 12 of 6-bit scales of 16 weights, fp16 d. weight = (code - 4) * d * (scale - 32).
// Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define CODES 3
#define OFFSET 1
#define ZERO 4
// Four scales: low halves in a nibble of four bytes, upper bits in a quarter of four others.
#define SCALES_OF(low, s4, high, s2) (((low) >> (s4) & 0x0f0f0f0fu) | ((high) >> (s2) & 0x03030303u) << 4)
#if REGISTERS == 16
#define GROUPS 16                                         // else there are lanes enough for each to make its scale
#define FACTOR_UNIT 0.0625f
#endif
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 55) + k / 256 * 55)}; }
inline void ahead(weights w) { prefetch(w.w, 55); }
#if GROUPS
inline vint factor_of(vlane lane) { return vint(lane) / 2; }
inline vint lane_of(vint factor) { return factor * 2; }
// 16 times lane i's scale as a product of four masked bytes: the one with its low half, and three times that with its upper bits.
inline vfloat factors(weights w, vlane lane, int) {
    vint i = vint(lane) % 16, top = 10 + i % 4;
    vuint parts = pick_bytes(dptr<const uchar>(w.w + 47), vuint(2 + i % 8 + top * 0x01010100))
                  & vuint(select(vint(0x0f), vint(0xf0), i >= 8) | (vint(0x03030300) << (i / 4 * 2)));
    vint times = select(vint(0x4000), vint(0x027f7f00), i < 4);           // 256 and less for the upper bits: 127 + 127 + 2
    times = select(times, vint(0x1000), i >= 8);
    times = select(times, vint(0x0400), i >= 12) | select(vint(16), vint(1), i >= 8);
    half whole = dptr<const half>(w.w)[54];
    return (vfloat(dot4_small(vint(0), parts, vuint(times))) - 512.0f) * float(whole);
}
#endif
inline eight_bytes load_bytes(weights w, vlane lane, int) {
    vuint s2 = vuint(vint(lane) / 4 % 4 * 2), by = vuint(2 - vint(lane) / 4) & 31u;
    vuint2 codes = ld_two<1>(w.w, spread<16, 16, 4, 1, 0, 4>(lane) + 16), top = ld_two<1>(w.w, spread<4, 0, 4>(lane));
    uint first4 = ld_pair(w.w, 48), next4 = ld_pair(w.w, 50), high = ld_pair(w.w, 52);
    vint of = vint(lane) / 2 % 8;
    vuint low = byte_of(SCALES_OF(first4, 0, high, 0), SCALES_OF(next4, 0, high, 2), of);
    vuint up = byte_of(SCALES_OF(first4, 4, high, 4), SCALES_OF(next4, 4, high, 6), of);
    vuint scales = select(low, up, vint(lane) >= 16);
    half whole = dptr<const half>(w.w)[54];
    eight_bytes e;
    e.a = (codes.x >> s2 & 0x03030303u) | (turn(top.x, by) & 0x04040404u);
    e.b = (codes.y >> s2 & 0x03030303u) | (turn(top.y, by) & 0x04040404u);
    e.scale = (number(scales) - 32.0f) * float(whole);
    e.offset = e.scale * -4.0f;
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    int half_of = k % 256 / 128, j = k % 256 / 32, s2 = j % 4 * 2;
    vint i = row * (K / 256 * 55) + k / 256 * 55;
    vuint low = ld_pair(w.w, i + (48 + j / 2 % 2 * 2)), high = ld_pair(w.w, i + 52);
    vuint scales = SCALES_OF(low, half_of * 4, high, j / 2 * 2) >> (j % 2 * 16);
    vfloat d = vfloat(ld(dptr<const half>(w.w), i + 54));
    codes32 c, top;
    UNROLL for (int h = 0; h < 2; ++h) {
        put4(c, 4 * h, masked(ld_words(w.w, i + (16 + half_of * 16 + h * 8)), s2, 0x03030303u));
        put4(top, 4 * h, masked(ld_words(w.w, i + h * 8), j, 0x01010101u));
        c.scale[h] = (number(scales >> (8 * h) & 255u) - 32.0f) * d;
        c.offset[h] = c.scale[h] * -4.0f;
    }
    UNROLL for (int t = 0; t < 8; ++t) c.c[t] = c.c[t] | top.c[t] << 2;
    return c;
}
#include "quants/bytes.h"
