// GGUF Q8_0: 32 weights in 34 bytes: fp16 d, 32 signed bytes. weight = code * d. Blocks are 2-byte aligned: words are
// read as pairs of 16-bit units. A lane has words lane % 4 and lane % 4 + 4 of one of 8 blocks.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define IN_ORDER 1
#define SCALES 1
#define OFFSET 0
struct weights { dptr<const ushort> w; };
#include "quants/signed_bytes.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 17) + k / 32 * 17)}; }

inline chunk load(weights w, vlane lane, int n) {
    vuint word[2];
    word[0] = ld_pair(w.w, spread<4, 17, 2>(lane) + 1, first(lane, n / 8));
    word[1] = ld_pair(w.w, spread<4, 17, 2>(lane) + 9, first(lane, n / 8));
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) q.c[i] = signed_byte(word[i / 4], i % 4);
    q.scale = vfloat(ld(dptr<const half>(w.w), spread<4, 17, 0>(lane), first(lane, n / 8)));
    return q;
}
template <typename P> inline vfloats take(P x, vlane lane, int n) {
    return eight(ld4(x, spread<4, 32, 4>(lane), first(lane, n / 8)),
                 ld4(x, spread<4, 32, 4>(lane) + 16, first(lane, n / 8)));
}
inline void ahead(weights w) { prefetch(w.w, 136); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 17) + k / 32 * 17;
    vuint4 front = ld_words(w.w, i);                                       // d comes with the first words
    vfloat d = half_lo(front.x) * 0x1p-24f;
    block b;
    scaled_bytes(b, 0, ld_words(w.w, i + 1), d);
    scaled_bytes(b, 4, ld_words(w.w, i + 9), d);
    return b;
}
#define CODES 8
inline codes32 codes(weights w, vint row, int k, int K) {    // codes + 128
    vint i = row * (K / 32 * 17) + k / 32 * 17;
    vfloat d = half_lo(ld_words(w.w, i).x);
    vuint4 a = ld_words(w.w, i + 1), b = ld_words(w.w, i + 9);
    codes32 c;
    c.c[0] = a.x; c.c[1] = a.y; c.c[2] = a.z; c.c[3] = a.w;
    c.c[4] = b.x; c.c[5] = b.y; c.c[6] = b.z; c.c[7] = b.w;
    UNROLL for (int n = 0; n < 8; ++n) c.c[n] = c.c[n] ^ 0x80808080u;
    c.scale = d;
    c.offset = d * -128.0f;
    return c;
}
