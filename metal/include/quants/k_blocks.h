// Q4_K and Q5_K: 256 weights in blocks of UNITS words: fp16 d and dmin, 12 bytes of scales and minima, for Q5_K (FIFTHS 1) 32
// bytes of fifth bits: bit j of byte i is that of weight 32 j + i; then 128 bytes of nibbles: 32 bytes have 32 weights in
// their low halves, then 32 in the high ones. weight = code * d * scale - dmin * minimum.
// Scales and minima have 6 bits, for 8 times 32 weights: bytes of words 1 and 2 have the first four of each below and upper
// bits of the others on top; word 3 has their low halves.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define UNITS (36 + 8 * FIFTHS)
#define NIBBLES (4 + 8 * FIFTHS)
#define CODES (4 + FIFTHS)
#define SCALES 1
#define OFFSET 1
#define ZERO 0
#if FIFTHS
#define SIDE 1                                            // more need more registers than there are
#endif
#define GROUPS 8
#define FACTOR_UNIT 0.0625f
#define FIRST_FOUR(w) ((w) & 0x3f3f3f3fu)
#define OTHERS(low, top) (((low) & 0x0f0f0f0fu) | ((top) >> 2 & 0x30303030u))
#if REGISTERS == 16
#define WHOLE 1
#define NEXT 4                                            // words from a lane's first four codes to its others
#else
#define NEXT 1
#endif
struct weights { dptr<const uint> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * UNITS) + k / 256 * UNITS)}; }
inline void ahead(weights w) { prefetch(w.w, UNITS); }
// The lower lanes have the lower halves of all bytes: every second 32 weights. Eight consecutive ones are a lane's.
inline vint number_of(vlane lane) { return vint(lane) % 16 / 4 * 2 + vint(lane) / 16; }        // which 32 weights a lane's are of
template <typename P> inline vfloats take(P x, vlane lane, int) {
    vint i = number_of(lane) * 32 + vint(lane) % 4 * (NEXT == 1 ? 8 : 4);
    return eight(ld4(x, i, first(lane, 32)), ld4(x, i + 4 * NEXT, first(lane, 32)));
}
inline vint factor_of(vlane lane) { return number_of(lane) * 2; }
inline vint lane_of(vint factor) { return factor / 4 * 4 + factor / 2 % 2 * 16; }
// Lanes 2 i of the first 16 make scale i, lanes 2 i + 1 minimum i, negative: 16 times them as products of one or two masked bytes.
inline vfloat factors(weights w, vlane lane, int) {
    vint i = vint(lane) % 16 / 2, m = vint(lane) % 2;
    vbool first4 = i < 4;                                 // six bits of byte 4 + i + 4 m; else a half of byte 8 + i, two of i + 4 m
    vuint parts = pick_bytes(dptr<const uchar>(w.w), vuint(select(8 + i + (i + 4 * m) * 256, 4 + i + 4 * m, first4)))
                  & vuint(select(select(vint(0xc00f), vint(0xc0f0), m == 1), vint(0x3f), first4));
    vuint times = vuint(select(select(vint(0x0410), vint(0xfcff), m == 1), select(vint(0x10), vint(0xf0), m == 1), first4));
    return vfloat(dot4_small(vint(0), parts, times)) * vfloat(ld(dptr<const half>(w.w), spread<2, 0>(lane)));
}
#if WHOLE
inline four_words scales_and_minima(weights w) {          // bytes of 8 each
    four_words t = ld_four(w.w + 1);
    four_words low = pick<0, 2, 1, 2>(t) >> four(0, 0, 0, 4) & four(0x3f3f3f3fu, 0x0f0f0f0fu, 0x3f3f3f3fu, 0x0f0f0f0fu);
    return low | (pick<0, 0, 1, 1>(t) >> four(2, 2, 2, 2) & four(0, 0x30303030u, 0, 0x30303030u));
}
inline vuint scale_pairs(weights w, vlane lane) { return byte_twice(scales_and_minima(w), number_of(lane)); }
inline vfloat offsets(weights w, vlane lane) { return number(byte_of(scales_and_minima(w), 8 + vint(lane) % 8)); }
inline vfloat step_scale(weights w, vlane lane) { return evens(ld(dptr<const half>(w.w), spread<2, 0>(lane)), lane); }
inline vfloat step_offset(weights w, vlane lane) { return odds(ld(dptr<const half>(w.w), spread<2, 0>(lane)), lane); }
#endif
inline eight_bytes load_bytes(weights w, vlane lane, int) {
    vint j = number_of(lane);
    vuint shift = vuint(vint(lane) / 16 * 4);
    eight_bytes e;
    vuint2 q = ld_two<NEXT>(w.w, spread<4, 8, NEXT == 1 ? 2 : 1, 1, 0, 4, 16>(lane) + NIBBLES);
    e.a = q.x >> shift & 0x0f0f0f0fu;
    e.b = q.y >> shift & 0x0f0f0f0fu;
#if FIFTHS
    vuint2 top = ld_two<NEXT>(w.w, spread<4, 0, NEXT == 1 ? 2 : 1>(lane) + 4);
    vuint by = vuint(4 - j) & 31u;                        // bit j of each byte to bit 4
    e.a = e.a | (turn(top.x, by) & 0x10101010u);
    e.b = e.b | (turn(top.y, by) & 0x10101010u);
#endif
    vfloat both = factors(w, lane, 256) * FACTOR_UNIT;
    e.scale = simd_shuffle16(both, j * 2);
    e.offset = simd_shuffle16(both, j * 2 + 1);
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    int j = k % 256 / 32, of = j % 4 * 8;
    vint i = row * (K / 256 * UNITS) + k / 256 * UNITS;
    codes32 c;
    put4(c, 0, masked(ld_words(w.w, i + (NIBBLES + j / 2 * 8)), j % 2 * 4, 0x0f0f0f0fu));
    put4(c, 4, masked(ld_words(w.w, i + (NIBBLES + 4 + j / 2 * 8)), j % 2 * 4, 0x0f0f0f0fu));
#if FIFTHS
    codes32 top;
    put4(top, 0, masked(ld_words(w.w, i + 4), j, 0x01010101u));
    put4(top, 4, masked(ld_words(w.w, i + 8), j, 0x01010101u));
    UNROLL for (int t = 0; t < 8; ++t) c.c[t] = c.c[t] | top.c[t] << 4;
#endif
    vuint4 front = ld_words(w.w, i);
    vuint scales = FIRST_FOUR(front.y), minima = FIRST_FOUR(front.z);
    if (j >= 4) {
        scales = OTHERS(front.w, front.y);
        minima = OTHERS(front.w >> 4, front.z);
    }
    return scaled(c, number(scales >> of & 255u) * half_lo(front.x), number(minima >> of & 255u) * -half_hi(front.x));
}
#include "quants/bytes.h"
