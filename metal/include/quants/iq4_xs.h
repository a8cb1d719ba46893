// GGUF IQ4_XS: 256 weights in 136 bytes: fp16 d, 2 bytes of upper bits and 4 of low halves of 6-bit scales of 32 weights,
// whose 16 bytes of nibbles are as in Q4_0. weight = value of the code * d * (scale - 32).
#include "quants/stored.h"
#include "quants/by32.h"
#define WEIGHT_PARAMS dptr<const uint> w
#define WEIGHTS weights{w}
#if REGISTERS == 16
#define GROUPS 8                                          // else there are lanes enough for each to make its scale
#endif
struct weights { dptr<const uint> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * (K / 256 * 34) + k / 256 * 34)}; }
inline void ahead(weights w) { prefetch(w.w, 34); }
inline vfloat scales(weights w, vint group) {
    uint front = w.w[0], low = w.w[1];
    vuint j = vuint(group);
    vuint scale = (vuint(low) >> (j * 4u) & 15u) | (vuint(front >> 16) >> (j * 2u) & 3u) << 4;
    return (number(scale) - 32.0f) * half_lo(front);
}
inline vfloat factors(weights w, vlane lane, int) { return scales(w, vint(lane) % 16 / 2); }
inline nibble_word word(weights w, vlane lane, int) {
    nibble_word t;
    t.w = ld(w.w, lane + 2);
    t.scale = scales(w, vint(lane) / 4);
    return t;
}
inline nibble_block words(weights w, vint row, int k, int K) {
    int j = k % 256 / 32;
    vint i = row * (K / 256 * 34) + k / 256 * 34;
    vuint front = ld(w.w, i), low = ld(w.w, i + 1);
    vuint scale = (low >> (j * 4) & 15u) | (front >> (16 + j * 2) & 3u) << 4;
    return nibble_block{ld_words(w.w, i + (2 + j * 4)), (number(scale) - 32.0f) * half_lo(front), vfloat(0.0f)};
}
#include "quants/iq4_values.h"
