// MLX's affine format: BITS (2, 3, 4, 5, 6, 8) a code, packed low bits first; a scale and an offset of STYPE for each
// GROUP (32, 64, 128) of weights. weight = code * scale + offset. A lane has 8 consecutive weights: BITS bytes.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const uint> w, dptr<const STYPE> scales, dptr<const STYPE> offsets
#define WEIGHTS weights{w, scales, offsets}
#define SCALES 1
#define OFFSET 1
#define ZERO 0
#if HOST && REGISTERS == 16                               // a scale and an offset of each 32 weights, or twice that of 64 and so on
#define GROUPS 8
#define FACTOR_UNIT 1.0f
inline vint factor_of(vlane lane) { return vint(lane) / 4 * 2; }
inline vint lane_of(vint factor) { return factor / 2 * 4; }
#define IN_PLACE (BITS <= 3)                              // codes stay where they are in their bytes, up to 3 bits to the left
#else
#define IN_PLACE 0
#endif
#define CODES (IN_PLACE ? 3 + BITS : BITS)
#if IN_PLACE                                              // PLACE(i): the code that byte i has, times TIMES(i)
#define TIMES(i) float(1 << ((BITS == 2 ? 0x22002200 : 0x13022130) >> (i) * 4 & 15))
#define PLACE(i) ((BITS == 2 ? 0x73625140 : 0x75426310) >> (i) * 4 & 15)
#endif
struct weights { dptr<const uint> w; dptr<const STYPE> scales; dptr<const STYPE> offsets; };

inline weights at(weights w, long row, int k, int K) {
    long group = row * (K / GROUP) + k / STEP * (STEP / GROUP);
    return weights{w.w + (row * (K / 32 * BITS) + k / STEP * (STEP / 32 * BITS)), w.scales + group, w.offsets + group};
}

// Code i of the 8 lies in word HALF(i) of `words` at bit AT(i), and is used there: x is divided by UNIT(i). Of 4 bits, codes 0 to 3
// are those of even weights: they are bytes with one mask.
#if BITS == 4
#define HALF(i) 0
#define AT(i) ((i) % 4 * 8 + (i) / 4 * 4)
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
#if IN_PLACE && BITS == 3
// The first of a lane's three bytes, byte A, byte 1, and the last.
template <int A> inline vuint four_bytes(dptr<const uint> w, vlane lane, int n) {
#if LANES_THREE_BYTES                                     // of bytes that lie together
    if (n % 8 == 0) return ld_three<0, A, 1, 2>(dptr<const uchar>(w), spread<32, 0, 3>(lane), first(lane, n));
#endif
    vuint t = three_bytes<3, 0>(w, lane, n);
    return (t & (A ? 0xffffu : 0xffu)) | (t << 8 & (A ? 0xffff0000u : 0xffffff00u));
}
#endif
struct two_words { vuint of[2]; };

inline two_words words(weights w, vlane lane, int m) {                    // of the first m lanes
    two_words t;
#if BITS == 4
    t.of[0] = ld(w.w, lane + 0, first(lane, m));
#elif BITS == 8
    t.of[0] = ld(w.w, spread<32, 0, 2>(lane), first(lane, m));
    t.of[1] = ld(w.w, spread<32, 0, 2>(lane) + 1, first(lane, m));
#elif BITS == 2
    t.of[0] = ld(dptr<const ushort>(w.w), lane + 0, first(lane, m));
#elif BITS == 3
    t.of[0] = three_bytes<3, 0>(w.w, lane, m);
#elif BITS == 5
    t.of[0] = three_bytes<5, 0>(w.w, lane, m);
    t.of[1] = three_bytes<5, 2>(w.w, lane, m);
#else
    t.of[0] = three_bytes<6, 0>(w.w, lane, m);
    t.of[1] = three_bytes<6, 3>(w.w, lane, m);
#endif
    return t;
}
#ifdef GROUPS
inline vfloat factors(weights w, vlane lane, int n) {
    return ld_in_turns<GROUP / 16>(w.scales, w.offsets, lane, n / 16);
}
#endif
inline vfloat load_scale(weights w, vlane lane, int m) { return vfloat(ld(w.scales, spread<GROUP / 8, 1, 0>(lane), first(lane, m))); }
inline vfloat load_offset(weights w, vlane lane, int m) { return vfloat(ld(w.offsets, spread<GROUP / 8, 1, 0>(lane), first(lane, m))); }
inline chunk load(weights w, vlane lane, int n) {
    two_words t = words(w, lane, n / 8);
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i)
        q.c[i] = TOP(i) ? number(t.of[HALF(i)] >> (32 - BITS)) : number(t.of[HALF(i)] & (((1u << BITS) - 1u) << AT(i)));
    q.scale = load_scale(w, lane, n / 8);
    q.offset = load_offset(w, lane, n / 8);
    return q;
}
// The lowest four codes of a word, a byte each; what lies above them does not matter.
inline vuint in_bytes(vuint w) {
#if BITS < 8                                              // two in each half first
    const uint two = (1u << (2 * BITS)) - 1u, one = ((1u << BITS) - 1u) * 0x00010001u;
    w = (w & two) | (w << (16 - 2 * BITS) & two << 16);
    w = (w & one) | (w << (8 - BITS) & one << 8);
#endif
    return w;
}
inline eight_bytes load_bytes(weights w, vlane lane, int n) {
    eight_bytes e;
#if IN_PLACE && BITS == 2
    vuint t = words(w, lane, n / 8).of[0], two = t | t << 16;
    e.a = two & 0x0c0c0303u;
    e.b = two >> 4 & 0x0c0c0303u;
#elif IN_PLACE
    e.a = four_bytes<0>(w.w, lane, n / 8) & 0x1c0e3807u;
    e.b = four_bytes<1>(w.w, lane, n / 8) >> 4 & 0x0e38071cu;
#elif LANES_BIT_FIELDS && BITS != 4 && BITS != 8
    e.a = bit_fields<BITS, 0>(w.w, first(lane, n / 8));
    e.b = bit_fields<BITS, 4>(w.w, first(lane, n / 8));
#else
    two_words t = words(w, lane, n / 8);
#if BITS == 4
    e.a = t.of[0] & 0x0f0f0f0fu;
    e.b = t.of[0] >> 4 & 0x0f0f0f0fu;
#else
    e.a = in_bytes(t.of[0]);
    e.b = in_bytes(t.of[HALF(4)] >> (AT(4)));
#endif
#endif
    e.scale = load_scale(w, lane, n / 8);
    e.offset = load_offset(w, lane, n / 8);
    return e;
}
template <typename P> inline vfloats take(P x, vlane lane, int n) {
    vfloat4 a = ld4(x, lane * 8, first(lane, n / 8)), b = ld4(x, lane * 8 + 4, first(lane, n / 8));
#if BITS == 4
    vfloats t = eight(a, b), r;
    UNROLL for (int i = 0; i < 8; ++i) r.v[i] = t.v[i % 4 * 2 + i / 4];
    return r;
#elif IN_PLACE && BYTES
    vfloats t = eight(a, b), r;
    UNROLL for (int i = 0; i < 8; ++i) r.v[i] = t.v[PLACE(i)] * (1.0f / TIMES(i));
    return r;
#else
    return eight(a, b);
#endif
}
inline void ahead(weights w) {
    prefetch(w.w, 8 * BITS);
    prefetch(w.scales, STEP / GROUP);
    prefetch(w.offsets, STEP / GROUP);
}
struct all_words { vuint of[BITS]; };

inline all_words words(weights w, vint row, int k, int K) {               // 32 codes
    vint i = row * (K / 32 * BITS) + k / 32 * BITS;
    all_words t;
    UNROLL for (int j = 0; j + 4 <= BITS; j += 4) {
        vuint4 four = ld_words(w.w, i + j);
        t.of[j] = four.x; t.of[j + 1] = four.y; t.of[j + 2] = four.z; t.of[j + 3] = four.w;
    }
    UNROLL for (int j = BITS / 4 * 4; j < BITS; ++j) t.of[j] = ld(w.w, i + j);
    return t;
}
inline vuint from_bit(thread const all_words& t, int bit, int n) {        // n bits, and others above
    vuint code = t.of[bit / 32] >> (bit % 32);
    return bit % 32 + n > 32 ? code | t.of[bit / 32 + 1] << (32 - bit % 32) : code;
}
inline block decode(weights w, vint row, int k, int K) {
    vint group = row * (K / GROUP) + k / GROUP;
    vfloat scale = vfloat(ld(w.scales, group)), offset = vfloat(ld(w.offsets, group));
    all_words t = words(w, row, k, K);
    block b;
    UNROLL for (int e = 0; e < 32; ++e) {
        int bit = e * BITS % 32;
        if (bit + BITS < 32)                                              // in place, as in load
            b.v[e] = number(t.of[e * BITS / 32] & (((1u << BITS) - 1u) << bit)) * (scale * (1.0f / float(1u << bit))) + offset;
        else b.v[e] = number(from_bit(t, e * BITS, BITS) & ((1u << BITS) - 1u)) * scale + offset;
    }
    return b;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    vint group = row * (K / GROUP) + k / GROUP;
    all_words t = words(w, row, k, K);
    codes32 c;
    UNROLL for (int j = 0; j < 8; ++j) c.c[j] = in_bytes(from_bit(t, j * 4 * BITS, 4 * BITS));
    return scaled(c, vfloat(ld(w.scales, group)), vfloat(ld(w.offsets, group)));
}
