// Q5_0 and Q5_1: a word of eight nibbles as in Q4_0, and a word of all fifth bits of the 32 weights, in their order.
#define UNIT(i) float(1u << ((i) % 4 * 8))

inline vuint fifths(vuint four) { return ((four & 15u) * 0x00204081u & 0x01010101u) << 4; }  // bit i to bit 4 of byte i
inline chunk five_bits(vuint w, vuint high, vint j) {                                        // word j of a block
    vuint bits = high >> vuint(j * 4), lo = (w & 0x0f0f0f0fu) | fifths(bits), hi = (w >> 4 & 0x0f0f0f0fu) | fifths(bits >> 16);
    chunk q;
    UNROLL for (int i = 0; i < 4; ++i) {
        q.c[i] = number(lo & (31u << (8 * i)));
        q.c[i + 4] = number(hi & (31u << (8 * i)));
    }
    return q;
}
template <typename P> inline vfloats take(P x, vlane lane, int n) {
    return eight(ld4(x, spread<4, 32, 4>(lane), first(lane, n / 8)),
                 ld4(x, spread<4, 32, 4>(lane) + 16, first(lane, n / 8)));
}
inline void scaled_fifths(thread block& b, int j, vuint w, vuint high, vfloat scale, vfloat offset) {
    chunk q = five_bits(w, high, vint(j));
    UNROLL for (int i = 0; i < 8; ++i) b.v[4 * j + i % 4 + i / 4 * 16] = q.c[i] * (scale * (1.0f / UNIT(i))) + offset;
}
inline void scaled_fifths(thread block& b, vuint4 w, vuint high, vfloat scale, vfloat offset) {   // a block
    scaled_fifths(b, 0, w.x, high, scale, offset);
    scaled_fifths(b, 1, w.y, high, scale, offset);
    scaled_fifths(b, 2, w.z, high, scale, offset);
    scaled_fifths(b, 3, w.w, high, scale, offset);
}
