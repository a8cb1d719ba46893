// Words of eight nibbles whose byte i holds weights i and i + 16 of a block of 32. Codes stay where they are in the
// word: the activation is divided by that power of two instead.
#define UNIT(i) ((i) == 7 ? 1.0f : float(1u << ((i) % 4 * 8 + (i) / 4 * 4)))

inline chunk nibbles(vuint w) {
    chunk q;
    UNROLL for (int i = 0; i < 7; ++i) q.c[i] = number(w & (15u << (i % 4 * 8 + i / 4 * 4)));
    q.c[7] = number(w >> 28);
    return q;
}
template <typename P> inline vfloats take(P x, vlane lane, int n) {
    return eight(ld4(x, spread<4, 32, 4>(lane), first(lane, n / 8)),
                 ld4(x, spread<4, 32, 4>(lane) + 16, first(lane, n / 8)));
}
inline void scaled_nibbles(thread block& b, int j, vuint w, vfloat scale, vfloat offset) {   // word j of a block
    chunk q = nibbles(w);
    UNROLL for (int i = 0; i < 8; ++i) b.v[4 * j + i % 4 + i / 4 * 16] = q.c[i] * (scale * (1.0f / UNIT(i))) + offset;
}
inline void scaled_nibbles(thread block& b, vuint4 w, vfloat scale, vfloat offset) {         // a block
    scaled_nibbles(b, 0, w.x, scale, offset);
    scaled_nibbles(b, 1, w.y, scale, offset);
    scaled_nibbles(b, 2, w.z, scale, offset);
    scaled_nibbles(b, 3, w.w, scale, offset);
}
