// GGUF Q8_K: 256 weights in 292 bytes: float d, 256 signed bytes, 16 sums (unused). weight = code * d.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
struct weights { dptr<const uint> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 73) + k / 256 * 73)}; }
inline void ahead(weights w) { prefetch(w.w, 73); }
inline eight_bytes load_bytes(weights w, vlane lane, int) {
    eight_bytes e;
    vuint2 q = ld_two<1>(w.w, spread<32, 0, 2>(lane) + 1);
    e.a = q.x ^ 0x80808080u;
    e.b = q.y ^ 0x80808080u;
    uint d = w.w[0];
    e.scale = as_float(d);
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    vint i = row * (K / 256 * 73) + k / 256 * 73;
    vfloat d = as_float(ld(w.w, i));
    codes32 c;
    put4(c, 0, ld_words(w.w, i + (1 + k % 256 / 4)));
    put4(c, 4, ld_words(w.w, i + (5 + k % 256 / 4)));
    UNROLL for (int n = 0; n < 8; ++n) c.c[n] = c.c[n] ^ 0x80808080u;
    return scaled(c, d, d * -128.0f);
}
#include "quants/signed_bytes.h"
