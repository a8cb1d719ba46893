// GGUF Q8_0: 32 weights in 34 bytes: fp16 d, 32 signed bytes. weight = code * d. Blocks are 2-byte aligned: words are
// read as pairs of 16-bit units. A lane has words lane % 4 and lane % 4 + 4 of one of 8 blocks.
#include "quants/stored.h"
#include "quants/by32.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define GROUPS 8
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 17) + k / STEP * 136)}; }
inline void ahead(weights w) { prefetch(w.w, 136); }
inline held<136> units(weights w, int n) { return ld_held<136>(w.w, n / 32 * 17); }
inline vfloat factors(weights w, vlane lane, int n) { return ld_half(units(w, n), spread<2, 17, 0, 1, 0, 2, 16>(lane)); }
inline eight_bytes load_bytes(weights w, vlane lane, int n) {
    eight_bytes e;
    e.a = ld_pair(units(w, n), spread<4, 17, 2, 1, 1>(lane)) ^ 0x80808080u;
    e.b = ld_pair(units(w, n), spread<4, 17, 2, 1, 9>(lane)) ^ 0x80808080u;
    e.scale = ld_half(units(w, n), spread<4, 17, 0>(lane));
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 17) + k / 32 * 17;
    vfloat d = half_lo(ld_words(w.w, i).x);
    codes32 c;
    put4(c, 0, ld_words(w.w, i + 1));
    put4(c, 4, ld_words(w.w, i + 9));
    UNROLL for (int n = 0; n < 8; ++n) c.c[n] = c.c[n] ^ 0x80808080u;
    return scaled(c, d, d * -128.0f);
}
#include "quants/signed_bytes.h"
