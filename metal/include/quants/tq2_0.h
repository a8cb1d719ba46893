// GGUF TQ2_0: 256 weights in 66 bytes: 64 bytes of 2-bit codes (of each half, four planes of 32), fp16 d.
// weight = (code - 1) * d. Blocks are 2-byte aligned: words are read as pairs of 16-bit units.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const ushort> w
#define WEIGHTS weights{w}
#define CODES 2
#define OFFSET 1
#define ZERO 1
#define SIDE 2
struct weights { dptr<const ushort> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 33) + k / 256 * 33)}; }
inline void ahead(weights w) { prefetch(w.w, 33); }
inline eight_bytes load_bytes(weights w, vlane lane, int) {
    vuint s2 = vuint(vint(lane) / 4 % 4 * 2);
    half d = dptr<const half>(w.w)[32];
    eight_bytes e;
    vuint2 q = ld_two<1>(w.w, spread<16, 16, 4, 1, 0, 4>(lane));
    e.a = q.x >> s2 & 0x03030303u;
    e.b = q.y >> s2 & 0x03030303u;
    e.scale = float(d);
    e.offset = -float(d);
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    vint i = row * (K / 256 * 33) + k / 256 * 33;
    vfloat d = vfloat(ld(dptr<const half>(w.w), i + 32));
    codes32 c;
    UNROLL for (int h = 0; h < 2; ++h)
        put4(c, 4 * h, masked(ld_words(w.w, i + (k % 256 / 128 * 16 + h * 8)), k % 128 / 32 * 2, 0x03030303u));
    return scaled(c, d, -d);
}
#include "quants/bytes.h"
