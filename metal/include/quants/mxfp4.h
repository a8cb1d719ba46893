// GGUF MXFP4: 32 weights in 17 bytes: an exponent e, then nibbles as in Q4_0. weight = VALUES[code] * 2^(e - 128); e = 0,
// below every normal number, is taken as 0. Blocks lie at any byte.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const uchar> w
#define WEIGHTS weights{w}
struct weights { dptr<const uchar> w; };
TABLE16(VALUES, 0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 6.0f, 8.0f, 12.0f, 0.0f, -1.0f, -2.0f, -3.0f, -4.0f, -6.0f, -8.0f, -12.0f);
#include "quants/values.h"

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 17) + k / 32 * 17)}; }

inline chunk load(weights w, vlane lane, int n) {
    chunk q = from_values(ld_word(w.w, spread<4, 17, 4>(lane) + 1, first(lane, n / 8)));
    vuint e = ld(w.w, spread<4, 17, 0>(lane), first(lane, n / 8));
    q.scale = as_float(e << 23) * 0.5f;
    return q;
}
inline void ahead(weights w) { prefetch(w.w, 136); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 17) + k / 32 * 17;
    vuint e = ld(w.w, i);
    block b;
    scaled_values(b, ld_words(w.w, i + 1), as_float(e << 23) * 0.5f);
    return b;
}
