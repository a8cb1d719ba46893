// Codes of up to 7 bits, one a byte of two words: they stay where they are, and x is divided by that power of two.
#define UNIT(i) float(1u << ((i) % 4 * 8))

inline chunk in_bytes(vuint a, vuint b) {
    chunk q;
    UNROLL for (int i = 0; i < 4; ++i) {
        q.c[i] = number(a & (255u << (8 * i)));
        q.c[i + 4] = number(b & (255u << (8 * i)));
    }
    return q;
}
inline void scaled_word(thread block& b, int at, vuint w, vfloat scale, vfloat offset) {     // weights at .. at + 3
    UNROLL for (int i = 0; i < 4; ++i)
        b.v[at + i] = number(w & (255u << (8 * i))) * (scale * (1.0f / float(1u << (8 * i)))) + offset;
}
