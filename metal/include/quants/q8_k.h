// GGUF Q8_K: 256 weights in 292 bytes: float d, 256 signed bytes, 16 sums (unused). weight = code * d.
#include "quants/stored.h"
#include "quants/eights.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#define OFFSET 0
struct weights { dptr<const uint> w; };
#include "quants/signed_bytes.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 73) + k / 256 * 73)}; }

inline chunk load(weights w, vlane lane, int) {
    vuint word[2];
    word[0] = ld(w.w, spread<32, 0, 2>(lane) + 1);
    word[1] = ld(w.w, spread<32, 0, 2>(lane) + 2);
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) q.c[i] = signed_byte(word[i / 4], i % 4);
    uint d = w.w[0];
    q.scale = as_float(d);
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 73); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 256 * 73) + k / 256 * 73;
    vfloat d = as_float(ld(w.w, i)) * 0x1p-24f;
    block b;
    scaled_bytes(b, 0, ld_words(w.w, i + (1 + k % 256 / 4)), d);
    scaled_bytes(b, 4, ld_words(w.w, i + (5 + k % 256 / 4)), d);
    return b;
}
