// Page format q8: affine, 8 bits. K has a scale and an offset (fp16; low and high half of a word) for each channel of a
// page, V for each token: value = code * scale + offset. Record: K codes, K scales [DK], V codes, V scales [PAGE].
#define K_PER 4
#define V_PER 4
#include "pages.h"
#define AT_K 0
#define AT_KS (DK / 4 * PAGE)
#define AT_V (AT_KS + DK)
#define AT_VS (AT_V + PAGE * V_WORDS)
#define AT_END (AT_VS + PAGE)

// A byte where it is, times 2^(8 j); the top one is moved down, to stay positive as an int.
inline vfloat byte_code(vuint w, int j) { return vfloat(vint(j == 3 ? w >> 24 : w & (255u << (8 * j)))); }
#define BYTE_UNIT(j) ((j) == 1 ? 0x1p-8f : (j) == 2 ? 0x1p-16f : 1.0f)
#define K_CODE(w, j) byte_code(w, j)
#define V_CODE(w, j) byte_code(w, j)
#define BYTE_VALUE(code, factors, j) ((code) * (half_lo(factors) * BYTE_UNIT(j)) + half_hi(factors))
#define K_VALUE(rec, code, d, j) BYTE_VALUE(code, uint(rec[AT_KS + (d)]), j)
#define V_VALUE(rec, code, t, j) BYTE_VALUE(code, uint(rec[AT_VS + (t)]), j)

#define K_PAGE
inline vuint k_factors(dptr<const uint> rec, vlane lane, int d) {
    return ld(rec, lane + (AT_KS + d), first(lane, DK - d));
}
inline vfloat k_query(vfloat q, vuint factors, thread vfloat& bias, vlane lane) {
    vint j = vint(lane) & 3;
    vfloat unit = select(select(vfloat(1.0f), vfloat(0x1p-8f), j == 1), vfloat(0x1p-16f), j == 2);
    bias += q * half_hi(factors);
    return q * half_lo(factors) * unit;
}
#define V_TOKEN
inline vuint v_factors(dptr<const uint> rec, vlane lane, int t0) {
    return ld(rec, lane + (AT_VS + t0), first(lane, BLOCK));
}
inline vfloat v_scale(vuint factors) { return half_lo(factors); }
inline vfloat v_zero(vuint factors) { return half_hi(factors); }
#define V_UNIT(j) BYTE_UNIT(j)

struct affine { vfloat zero, scale; vuint word; };        // of some numbers, the same in all lanes
inline affine affine_of(float low, float high) {
    affine a;
    vuint zero = half_bits(vfloat(low));
    a.zero = half_lo(zero);
    vuint scale = half_bits((vfloat(high) - a.zero) / 255.0f);
    a.scale = half_lo(scale);
    a.word = scale | zero << 16;
    return a;
}
inline vuint byte_of(thread const affine& a, vfloat x) {
    vfloat c = rint((x - a.zero) / select(vfloat(1.0f), a.scale, a.scale > 0.0f));
    return vuint(vint(min(max(c, vfloat(0.0f)), vfloat(255.0f))));
}
inline void encode_k(dptr<uint> rec, vlane lane, int d, thread const quads& x) {
    affine a[4];
    UNROLL for (int e = 0; e < 4; ++e) {
        vfloat low = INFINITY, high = -INFINITY;
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
            vfloat c = e == 0 ? x.v[b].x : e == 1 ? x.v[b].y : e == 2 ? x.v[b].z : x.v[b].w;
            low = min(low, select(vfloat(INFINITY), c, vint(lane) < BLOCK));
            high = max(high, select(vfloat(-INFINITY), c, vint(lane) < BLOCK));
        }
        a[e] = affine_of(simd_min(low), simd_max(high));
        st(rec, lane + (AT_KS + d + e), a[e].word, first(lane, 1));
    }
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        vuint w = byte_of(a[0], x.v[b].x) | byte_of(a[1], x.v[b].y) << 8 | byte_of(a[2], x.v[b].z) << 16 |
                  byte_of(a[3], x.v[b].w) << 24;
        st(rec, lane + (AT_K + d / 4 * PAGE + 32 * b), w, first(lane, BLOCK));
    }
}
inline void encode_v(dptr<uint> rec, vlane lane, int t, thread const token& x) {
    vfloat low = INFINITY, high = -INFINITY;
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) UNROLL for (int j = 0; j < 4; ++j) {
        low = min(low, select(vfloat(INFINITY), x.v[c][j], vint(lane) < V_WORDS - 32 * c));
        high = max(high, select(vfloat(-INFINITY), x.v[c][j], vint(lane) < V_WORDS - 32 * c));
    }
    affine a = affine_of(simd_min(low), simd_max(high));
    st(rec, lane + (AT_VS + t), a.word, first(lane, 1));
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) {
        vuint w = byte_of(a, x.v[c][0]) | byte_of(a, x.v[c][1]) << 8 | byte_of(a, x.v[c][2]) << 16 |
                  byte_of(a, x.v[c][3]) << 24;
        st(rec, lane + (AT_V + t * V_WORDS + 32 * c), w, first(lane, V_WORDS - 32 * c));
    }
}
