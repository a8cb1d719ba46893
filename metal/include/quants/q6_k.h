// GGUF Q6_K: 256 weights in 210 bytes: 128 bytes of nibbles, 64 of upper bits, 16 signed scales, fp16 d. Of each half, 64
// bytes of nibbles are two planes of 64 weights, and 32 bytes of upper bits four of 32. weight = (code - 32) * d * scale,
// a scale for 16 weights. Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define OFFSET 1
struct weights { dptr<const ushort> w; };
#include "quants/bytes.h"
#define SIX(low, high, s4, s2) (((low) >> s4 & 0x0f0f0f0fu) | ((high) >> s2 & 0x03030303u) << 4)

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 105) + k / 256 * 105)}; }

inline chunk load(weights w, vlane lane, int) {
    vuint s4 = vuint(vint(lane) / 8 % 2 * 4), s2 = vuint(vint(lane) / 4 % 4 * 2);
    vuint a = ld_pair(w.w, spread<16, 32, 4, 1, 0, 8>(lane), first(lane, 32));
    vuint b = ld_pair(w.w, spread<16, 32, 4, 1, 0, 8>(lane) + 2, first(lane, 32));
    vuint c = ld_pair(w.w, spread<16, 16, 4, 1, 0, 4>(lane) + 64, first(lane, 32));
    vuint d = ld_pair(w.w, spread<16, 16, 4, 1, 0, 4>(lane) + 66, first(lane, 32));
    chunk q = in_bytes(SIX(a, c, s4, s2), SIX(b, d, s4, s2));
    vuint scales = ld(w.w, spread<4, 1, 0>(lane) + 96);                   // two of them
    vint scale = vint(scales << vuint(24 - vint(lane) / 2 % 2 * 8)) >> 24;
    half whole = dptr<const half>(w.w)[104];
    q.scale = vfloat(scale) * float(whole);
    q.offset = q.scale * -32.0f;
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 105); }
inline block decode(weights w, vint row, int k, int K) {
    int half_of = k % 256 / 128, j = k % 128 / 32, s4 = j / 2 * 4, s2 = j * 2;
    vint i = row * (K / 256 * 105) + k / 256 * 105;
    vuint scales = ld(w.w, i + (96 + k % 256 / 32));
    vfloat d = vfloat(ld(dptr<const half>(w.w), i + 104));
    block b;
    UNROLL for (int h = 0; h < 2; ++h) {
        vuint4 q = ld_words(w.w, i + (half_of * 32 + j % 2 * 16 + h * 8)), high = ld_words(w.w, i + (64 + half_of * 16 + h * 8));
        vfloat scale = vfloat(vint(scales << (24 - 8 * h)) >> 24) * d, offset = scale * -32.0f;
        scaled_word(b, 16 * h, SIX(q.x, high.x, s4, s2), scale, offset);
        scaled_word(b, 16 * h + 4, SIX(q.y, high.y, s4, s2), scale, offset);
        scaled_word(b, 16 * h + 8, SIX(q.z, high.z, s4, s2), scale, offset);
        scaled_word(b, 16 * h + 12, SIX(q.w, high.w, s4, s2), scale, offset);
    }
    return b;
}
