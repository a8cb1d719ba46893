// GGUF Q3_K: 256 weights in 110 bytes: 32 bytes of third bits (bit j of byte i: weight 32 j + i), 64 of two lower bits (of
// each half, four planes of 32), 12 of 6-bit scales of 16 weights, fp16 d. weight = (code - 4) * d * (scale - 32).
// Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define OFFSET 1
struct weights { dptr<const ushort> w; };
#include "quants/bytes.h"
#define THREE(low, high, s2, j) (((low) >> s2 & 0x03030303u) | ((high) >> j & 0x01010101u) << 2)
// Four scales: low halves in a nibble of four bytes, upper bits in a quarter of four others.
#define SCALES_OF(low, s4, high, s2) (((low) >> (s4) & 0x0f0f0f0fu) | ((high) >> (s2) & 0x03030303u) << 4)

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 55) + k / 256 * 55)}; }

inline chunk load(weights w, vlane lane, int) {
    vuint s2 = vuint(vint(lane) / 4 % 4 * 2), j = vuint(vint(lane) / 4);
    vuint a = ld_pair(w.w, spread<16, 16, 4, 1, 0, 4>(lane) + 16, first(lane, 32));
    vuint b = ld_pair(w.w, spread<16, 16, 4, 1, 0, 4>(lane) + 18, first(lane, 32));
    vuint c = ld_pair(w.w, spread<4, 0, 4>(lane), first(lane, 32)), d = ld_pair(w.w, spread<4, 0, 4>(lane) + 2, first(lane, 32));
    chunk q = in_bytes(THREE(a, c, s2, j), THREE(b, d, s2, j));
    uint first4 = ld_pair(w.w, 48), next4 = ld_pair(w.w, 50), high = ld_pair(w.w, 52);
    vint of = vint(lane) / 8;
    vuint low = select(vuint(SCALES_OF(first4, 0, high, 0)), vuint(SCALES_OF(next4, 0, high, 2)), of == 1);
    vuint up = select(vuint(SCALES_OF(first4, 4, high, 4)), vuint(SCALES_OF(next4, 4, high, 6)), of == 3);
    vuint scales = select(low, up, of >= 2) >> vuint(vint(lane) / 2 % 4 * 8) & 255u;
    half whole = dptr<const half>(w.w)[54];
    q.scale = (number(scales) - 32.0f) * float(whole);
    q.offset = q.scale * -4.0f;
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 55); }
inline block decode(weights w, vint row, int k, int K) {
    int half_of = k % 256 / 128, j = k % 256 / 32, s2 = j % 4 * 2;
    vint i = row * (K / 256 * 55) + k / 256 * 55;
    vuint low = ld_pair(w.w, i + (48 + j / 2 % 2 * 2)), high = ld_pair(w.w, i + 52);
    vuint scales = SCALES_OF(low, half_of * 4, high, j / 2 * 2) >> (j % 2 * 16);
    vfloat d = vfloat(ld(dptr<const half>(w.w), i + 54));
    block b;
    UNROLL for (int h = 0; h < 2; ++h) {
        vuint4 q = ld_words(w.w, i + (16 + half_of * 16 + h * 8)), top = ld_words(w.w, i + h * 8);
        vfloat scale = (number(scales >> (8 * h) & 255u) - 32.0f) * d, offset = scale * -4.0f;
        scaled_word(b, 16 * h, THREE(q.x, top.x, s2, j), scale, offset);
        scaled_word(b, 16 * h + 4, THREE(q.y, top.y, s2, j), scale, offset);
        scaled_word(b, 16 * h + 8, THREE(q.z, top.z, s2, j), scale, offset);
        scaled_word(b, 16 * h + 12, THREE(q.w, top.w, s2, j), scale, offset);
    }
    return b;
}
