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
inline codes32 nibble_codes(vuint4 w, vfloat scale, vfloat offset) {
    codes32 b;
    b.c[0] = w.x & 0x0f0f0f0fu; b.c[1] = w.y & 0x0f0f0f0fu; b.c[2] = w.z & 0x0f0f0f0fu; b.c[3] = w.w & 0x0f0f0f0fu;
    b.c[4] = w.x >> 4 & 0x0f0f0f0fu; b.c[5] = w.y >> 4 & 0x0f0f0f0fu;
    b.c[6] = w.z >> 4 & 0x0f0f0f0fu; b.c[7] = w.w >> 4 & 0x0f0f0f0fu;
    b.scale = scale;
    b.offset = offset;
    return b;
}
