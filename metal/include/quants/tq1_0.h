// GGUF TQ1_0: 256 weights in 54 bytes: bytes with five digits to base 3 (32 bytes: five planes of 32 weights; 16: five of 16;
// 4: four of 4), fp16 d. Digit n of a byte is the upper byte of 3 * (byte * 3^n mod 256); weight = (digit - 1) * d.
// Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define CODES 2
#define OFFSET 1
#define ZERO 1
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 27) + k / 256 * 27)}; }
inline void ahead(weights w) { prefetch(w.w, 27); }
inline vuint power(vint n) {                                              // 3^n, n up to 4
    vuint p = select(vuint(1u), vuint(3u), n == 1);
    p = select(p, vuint(9u), n == 2);
    p = select(p, vuint(27u), n == 3);
    return select(p, vuint(81u), n == 4);
}
inline vuint digits(vuint w, vuint p) {                                   // of four bytes, where they are
    vuint even = ((w & 0x00ff00ffu) * p & 0x00ff00ffu) * 3u, odd = ((w >> 8 & 0x00ff00ffu) * p & 0x00ff00ffu) * 3u;
    return (even >> 8 & 0x00030003u) | (odd & 0x03000300u);
}
inline eight_bytes load_bytes(weights w, vlane lane, int) {
    vint l = vint(lane), second = l - 20;                                 // lanes 0-19: 32 bytes; 20-29: 16; 30, 31: 4
    vint n = select(select(l / 4, second / 2, l >= 20), (l - 30) * 2, l >= 30);
#if HOST                                                  // three spreads, not two gathers
    vuint2 of32 = ld_two<1>(w.w, spread<4, 0, 4>(lane)), of16 = ld_two<1>(w.w, spread<2, 0, 4>(lane) + 16);
    vuint of4 = ld_pair(w.w, spread<32, 0, 0>(lane) + 24, first(lane, 32));
    vuint a = select(select(of32.x, of16.x, l >= 20), of4, l >= 30), b = select(select(of32.y, of16.y, l >= 20), of4, l >= 30);
#else
    vint i = select(select(l % 4 * 4, second % 2 * 4 + 16, l >= 20), vint(24), l >= 30);
    vuint a = ld_pair(w.w, i), b = ld_pair(w.w, select(i + 2, vint(24), l >= 30));
#endif
    half d = dptr<const half>(w.w)[26];
    eight_bytes e;
    e.a = digits(a, power(n));
    e.b = digits(b, power(select(n, n + 1, l >= 30)));
    e.scale = float(d);
    e.offset = -float(d);
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    int j = k % 256 / 32;
    vint i = row * (K / 256 * 27) + k / 256 * 27;
    vfloat d = vfloat(ld(dptr<const half>(w.w), i + 26));
    codes32 c;
    UNROLL for (int t = 0; t < 8; ++t) {
        int of = j < 5 ? 2 * t : j == 7 && t >= 4 ? 24 : 16 + t % 4 * 2, n = j < 5 ? j : j == 7 && t >= 4 ? t - 4 : j * 2 - 10 + t / 4;
        c.c[t] = digits(ld_pair(w.w, i + of), power(vint(n)));
    }
    return scaled(c, d, -d);
}
#include "quants/bytes.h"
