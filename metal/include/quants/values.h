// Words of eight nibbles, placed as in Q4_0, that stand for VALUES, 16 constants of the type.
#define UNIT(i) 1.0f
#define IN_ORDER 1
#define SCALES 1
#define OFFSET 0

inline chunk from_values(vuint w) {
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) q.c[i] = pick16(VALUES, w >> (i % 4 * 8 + i / 4 * 4));
    return q;
}
template <typename P> inline vfloats take(P x, vlane lane, int n) {
    return eight(ld4(x, spread<4, 32, 4>(lane), first(lane, n / 8)),
                 ld4(x, spread<4, 32, 4>(lane) + 16, first(lane, n / 8)));
}
inline void scaled_values(thread block& b, int j, vuint w, vfloat scale) {    // word j of a block
    chunk q = from_values(w);
    UNROLL for (int i = 0; i < 8; ++i) b.v[4 * j + i % 4 + i / 4 * 16] = q.c[i] * scale;
}
inline void scaled_values(thread block& b, vuint4 w, vfloat scale) {          // a block
    scaled_values(b, 0, w.x, scale);
    scaled_values(b, 1, w.y, scale);
    scaled_values(b, 2, w.z, scale);
    scaled_values(b, 3, w.w, scale);
}
