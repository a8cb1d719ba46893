// GGUF Q6_K: 256 weights in 210 bytes: 128 bytes of nibbles, 64 of upper bits, 16 signed scales, fp16 d. Of each half, 64
// bytes of nibbles are two planes of 64 weights, and 32 bytes of upper bits four of 32. weight = (code - 32) * d * scale,
// a scale for 16 weights. Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define CODES 6
#define SCALES 1
#define OFFSET 1
#define ZERO 32
#define GROUPS 16
#define FACTOR_UNIT 1.0f
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 105) + k / 256 * 105)}; }
inline void ahead(weights w) { prefetch(w.w, 105); }
#if REGISTERS == 16
// A quarter of each half is a vector's with AVX2: what is shifted alike.
inline vint first_of(vlane lane) { return vint(lane) / 4 % 2 * 128 + vint(lane) / 8 * 32 + vint(lane) % 4 * 8; }
inline vint quarter(vlane lane) { return vint(lane) / 8; }
// Factors in an order in which those of a vector are in one vector: four of the first half, of the second, and again.
inline vint factor_of(vlane lane) { return vint(lane) / 16 * 8 + vint(lane) / 4 % 2 * 4 + vint(lane) / 8 % 2 * 2 + vint(lane) % 4 / 2; }
inline vint lane_of(vint factor) { return factor / 8 * 16 + factor / 2 % 2 * 8 + factor / 4 % 2 * 4 + factor % 2 * 2; }
inline vint scales(weights w, vlane lane) {
    vuint at = vuint(vint(lane) % 4 + vint(lane) / 4 % 2 * 8 + vint(lane) / 8 % 2 * 4);
    return vint(pick_bytes(dptr<const uchar>(w.w + 96), at * vuint(0x01010101u))) >> 24;
}
#define UPPER spread<4, 16, 4, 1, 64, 4, 8>(lane)
#else
// The lower lanes have the lower halves of all bytes of nibbles: of each half, the first 64 weights.
inline vint first_of(vlane lane) {                        // of a lane's 8 consecutive weights
    return vint(lane) % 16 / 8 * 128 + vint(lane) / 16 * 64 + vint(lane) % 8 * 8;
}
inline vint lane_of(vint factor) { return factor / 8 * 8 + factor / 4 % 2 * 16 + factor % 4 * 2; }
inline vint quarter(vlane lane) { return vint(lane) / 16 * 2 + vint(lane) / 4 % 2; }
inline vint factor_of(vlane lane) { return first_of(lane) / 16; }
inline vint scales(weights w, vlane lane) { return ld(dptr<const char>(w.w), lane + 192, first(lane, 16)); }
#define UPPER spread<8, 16, 4, 1, 64, 4, 16>(lane)
#endif
template <typename P> inline vfloats take(P x, vlane lane, int) {
    return eight(ld4(x, first_of(lane), first(lane, 32)), ld4(x, first_of(lane) + 4, first(lane, 32)));
}
inline vfloat factors(weights w, vlane lane, int) {
    vfloat whole = ld(dptr<const half>(w.w), spread<32, 0, 0>(lane) + 104);
    return vfloat(scales(w, lane)) * whole;
}
inline eight_bytes load_bytes(weights w, vlane lane, int) {
    vuint s4 = vuint(quarter(lane) / 2 * 4), by = vuint(4 - quarter(lane) * 2) & 31u;
    held<105> u = ld_held<105>(w.w, 105);
#if REGISTERS == 16
    vuint2 low = ld_two<1>(u, spread<4, 32, 4, 1, 0, 4, 8>(lane)), odd = ld_two<1>(u, spread<4, 32, 4, 1, 16, 4, 8>(lane));
    low.x = select(low.x, odd.x, quarter(lane) % 2 == 1);
    low.y = select(low.y, odd.y, quarter(lane) % 2 == 1);
#else
    vuint2 low = ld_two<1>(u, spread<4, 16, 4, 1, 0, 4, 16>(lane));
#endif
    vuint2 high = ld_two<1>(u, UPPER);
    eight_bytes e;
    e.a = (low.x >> s4 & 0x0f0f0f0fu) | (turn(high.x, by) & 0x30303030u);
    e.b = (low.y >> s4 & 0x0f0f0f0fu) | (turn(high.y, by) & 0x30303030u);
    e.scale = simd_shuffle16(factors(w, lane, 256), factor_of(lane));
    e.offset = e.scale * -32.0f;
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    int half_of = k % 256 / 128, j = k % 128 / 32, s4 = j / 2 * 4, s2 = j * 2;
    vint i = row * (K / 256 * 105) + k / 256 * 105;
    vuint scales = ld(w.w, i + (96 + k % 256 / 32));
    vfloat d = vfloat(ld(dptr<const half>(w.w), i + 104));
    codes32 c, top;
    UNROLL for (int h = 0; h < 2; ++h) {
        put4(c, 4 * h, masked(ld_words(w.w, i + (half_of * 32 + j % 2 * 16 + h * 8)), s4, 0x0f0f0f0fu));
        put4(top, 4 * h, masked(ld_words(w.w, i + (64 + half_of * 16 + h * 8)), s2, 0x03030303u));
        c.scale[h] = vfloat(vint(scales << (24 - 8 * h)) >> 24) * d;
        c.offset[h] = c.scale[h] * -32.0f;
    }
    UNROLL for (int t = 0; t < 8; ++t) c.c[t] = c.c[t] | top.c[t] << 4;
    return c;
}
#include "quants/bytes.h"
