// Signed bytes of a word as floats, times 2^24.
#define UNIT(i) 0x1p24f

inline vfloat signed_byte(vuint w, int i) {
    return vfloat(vint(i == 0 ? w << 24 : i == 3 ? w & 0xff000000u : (w << (24 - 8 * i)) & 0xff000000u));
}
inline void scaled_bytes(thread block& b, int j, vuint w, vfloat scale) {     // word j of a block
    UNROLL for (int e = 0; e < 4; ++e) b.v[4 * j + e] = signed_byte(w, e) * scale;
}
inline void scaled_bytes(thread block& b, int j, vuint4 w, vfloat scale) {    // words j .. j + 3
    scaled_bytes(b, j, w.x, scale);
    scaled_bytes(b, j + 1, w.y, scale);
    scaled_bytes(b, j + 2, w.z, scale);
    scaled_bytes(b, j + 3, w.w, scale);
}
