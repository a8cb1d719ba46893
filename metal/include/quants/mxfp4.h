// GGUF MXFP4: 32 weights in 17 bytes: an exponent e, then nibbles as in Q4_0. weight = value of the code * 2^(e - 128); e = 0,
// below every normal number, is taken as 0. Blocks lie at any byte.
#include "quants/stored.h"
#include "quants/by32.h"
#define WEIGHT_PARAMS dptr<const uchar> w
#define WEIGHTS weights{w}
#define EACH_VALUE(V) V(0), V(1), V(2), V(3), V(4), V(6), V(8), V(12), V(0), V(-1), V(-2), V(-3), V(-4), V(-6), V(-8), V(-12)
#define ZERO 12
#define CODES 5
struct weights { dptr<const uchar> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 32 * 17) + k / 32 * 17)}; }
inline void ahead(weights w) { prefetch(w.w, 136); }
inline nibble_word word(weights w, vlane lane, int n) {
    vuint e = ld(w.w, spread<4, 17, 0>(lane), first(lane, n / 8));
    nibble_word t;
    t.w = ld_word(w.w, spread<4, 17, 4>(lane) + 1, first(lane, n / 8));
    t.scale = as_float(e << 23) * 0.5f;
    return t;
}
inline nibble_block words(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * 17) + k / 32 * 17;
    vuint e = ld(w.w, i);
    return nibble_block{ld_words(w.w, i + 1), as_float(e << 23) * 0.5f, vfloat(0.0f)};
}
#include "quants/values.h"
