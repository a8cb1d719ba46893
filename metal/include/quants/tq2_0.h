// GGUF TQ2_0: 256 weights in 66 bytes: 64 bytes of 2-bit codes (of each half, four planes of 32), fp16 d.
// weight = (code - 1) * d. Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define OFFSET 1
struct weights { dptr<const ushort> w; };
#include "quants/bytes.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 33) + k / 256 * 33)}; }

inline chunk load(weights w, vlane lane, int) {
    vuint s2 = vuint(vint(lane) / 4 % 4 * 2);
    vuint a = ld_pair(w.w, spread<16, 16, 4, 1, 0, 4>(lane), first(lane, 32));
    vuint b = ld_pair(w.w, spread<16, 16, 4, 1, 0, 4>(lane) + 2, first(lane, 32));
    chunk q = in_bytes(a >> s2 & 0x03030303u, b >> s2 & 0x03030303u);
    half d = dptr<const half>(w.w)[32];
    q.scale = float(d);
    q.offset = -float(d);
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 33); }
inline block decode(weights w, vint row, int k, int K) {
    int s2 = k % 128 / 32 * 2;
    vint i = row * (K / 256 * 33) + k / 256 * 33;
    vfloat d = vfloat(ld(dptr<const half>(w.w), i + 32));
    block b;
    UNROLL for (int h = 0; h < 2; ++h) {
        vuint4 q = ld_words(w.w, i + (k % 256 / 128 * 16 + h * 8));
        scaled_word(b, 16 * h, q.x >> s2 & 0x03030303u, d, -d);
        scaled_word(b, 16 * h + 4, q.y >> s2 & 0x03030303u, d, -d);
        scaled_word(b, 16 * h + 8, q.z >> s2 & 0x03030303u, d, -d);
        scaled_word(b, 16 * h + 12, q.w >> s2 & 0x03030303u, d, -d);
    }
    return b;
}
