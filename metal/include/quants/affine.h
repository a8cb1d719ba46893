// MLX's affine format: BITS (2, 3, 4, 5, 6, 8) a code, packed low bits first; a scale and an offset of STYPE for each
// GROUP (32, 64, 128) of weights. weight = code * scale + offset. A lane has 8 consecutive weights: BITS bytes.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const uint> w, dptr<const STYPE> scales, dptr<const STYPE> offsets
#define WEIGHTS weights{w, scales, offsets}
#define IN_ORDER 1
#define SCALES 1
#define OFFSET 1
struct weights { dptr<const uint> w; dptr<const STYPE> scales; dptr<const STYPE> offsets; };

inline weights at(weights w, long row, int k, int K) {
    long group = row * (K / GROUP) + k / GROUP;
    return weights{w.w + (row * (K / 32 * BITS) + k / 32 * BITS), w.scales + group, w.offsets + group};
}

// Code i of the 8 lies in word HALF(i) of `words` at bit AT(i), and is used there: x is divided by UNIT(i).
#if BITS == 4
#define HALF(i) 0
#define AT(i) (4 * (i))
#elif BITS == 8
#define HALF(i) ((i) / 4)
#define AT(i) ((i) % 4 * 8)
#elif BITS == 5
#define HALF(i) ((i) / 4)
#define AT(i) ((i) / 4 * 4 + (i) % 4 * 5)
#elif BITS == 6
#define HALF(i) ((i) / 4)
#define AT(i) ((i) % 4 * 6)
#else
#define HALF(i) 0
#define AT(i) (BITS * (i))
#endif
#define TOP(i) (AT(i) + BITS == 32)                                       // shifted down, as converting is signed
#define UNIT(i) (TOP(i) ? 1.0f : float(1u << AT(i)))

// Three bytes from byte NUM * lane + OFF on; further bits are not zero.
template <int NUM, int OFF> inline vuint three_bytes(dptr<const uint> w, vlane lane, int n) {
    vuint shift = vuint((vint(lane) * NUM + OFF) % 4 * 8);
    vuint low = ld(w, spread<32, 0, NUM, 4, OFF>(lane), first(lane, n)),
          high = ld(w, spread<32, 0, NUM, 4, OFF + 2>(lane), first(lane, n));
    return (low >> shift) | ((high << 1) << (31u - shift));
}
inline chunk load(weights w, vlane lane, int n) {
    vuint word[2];
    int m = n / 8;
#if BITS == 4
    word[0] = ld(w.w, lane + 0, first(lane, m));
#elif BITS == 8
    word[0] = ld(w.w, spread<32, 0, 2>(lane), first(lane, m));
    word[1] = ld(w.w, spread<32, 0, 2>(lane) + 1, first(lane, m));
#elif BITS == 2
    word[0] = ld(dptr<const ushort>(w.w), lane + 0, first(lane, m));
#elif BITS == 3
    word[0] = three_bytes<3, 0>(w.w, lane, m);
#elif BITS == 5
    word[0] = three_bytes<5, 0>(w.w, lane, m);
    word[1] = three_bytes<5, 2>(w.w, lane, m);
#else
    word[0] = three_bytes<6, 0>(w.w, lane, m);
    word[1] = three_bytes<6, 3>(w.w, lane, m);
#endif
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i)
        q.c[i] = TOP(i) ? number(word[HALF(i)] >> (32 - BITS)) : number(word[HALF(i)] & (((1u << BITS) - 1u) << AT(i)));
    q.scale = vfloat(ld(w.scales, spread<GROUP / 8, 1, 0>(lane), first(lane, m)));
    q.offset = vfloat(ld(w.offsets, spread<GROUP / 8, 1, 0>(lane), first(lane, m)));
    return q;
}
template <typename P> inline vfloats take(P x, vlane lane, int n) {
    return eight(ld4(x, lane * 8, first(lane, n / 8)), ld4(x, lane * 8 + 4, first(lane, n / 8)));
}
inline void ahead(weights w) {
    prefetch(w.w, 8 * BITS);
    prefetch(w.scales, STEP / GROUP);
    prefetch(w.offsets, STEP / GROUP);
}
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 32 * BITS) + k / 32 * BITS, group = row * (K / GROUP) + k / GROUP;
    vfloat scale = vfloat(ld(w.scales, group)), offset = vfloat(ld(w.offsets, group));
    vuint word[BITS];                                                     // 32 codes
    UNROLL for (int j = 0; j + 4 <= BITS; j += 4) {
        vuint4 four = ld_words(w.w, i + j);
        word[j] = four.x; word[j + 1] = four.y; word[j + 2] = four.z; word[j + 3] = four.w;
    }
    UNROLL for (int j = BITS / 4 * 4; j < BITS; ++j) word[j] = ld(w.w, i + j);
    block b;
    UNROLL for (int e = 0; e < 32; ++e) {
        int j = e * BITS / 32, bit = e * BITS % 32;
        if (bit + BITS < 32) {                                            // in place, as in load
            b.v[e] = number(word[j] & (((1u << BITS) - 1u) << bit)) * (scale * (1.0f / float(1u << bit))) + offset;
        } else {
            vuint code = word[j] >> bit;
            if (bit + BITS > 32) code = code | (word[j + 1] << (32 - bit));
            b.v[e] = number(code & ((1u << BITS) - 1u)) * scale + offset;
        }
    }
    return b;
}
