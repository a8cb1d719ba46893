// For types with `load_bytes` and `codes` that are signed bytes + 128: floats of them, times 2^24.
#define ZERO 128
#define CODES 8
#define OFFSET 0
#define UNIT(i) 0x1p24f

inline vfloat signed_byte(vuint w, int i) {               // w: as stored, with the upper bit not yet turned
    return vfloat(vint(i == 0 ? w << 24 : i == 3 ? w & 0xff000000u : (w << (24 - 8 * i)) & 0xff000000u));
}
inline chunk load(weights w, vlane lane, int n) {
    eight_bytes e = load_bytes(w, lane, n);
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) q.c[i] = signed_byte((i < 4 ? e.a : e.b) ^ 0x80808080u, i % 4);
    q.scale = e.scale;
    return q;
}
inline block decode(weights w, vint row, int k, int K) {
    codes32 c = codes(w, row, k, K);
    block b;
    UNROLL for (int e = 0; e < 32; ++e) b.v[e] = signed_byte(c.c[e / 4] ^ 0x80808080u, e % 4) * (c.scale[0] * 0x1p-24f);
    return b;
}
