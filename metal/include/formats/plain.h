// K and V as plain floating-point numbers: what f16, bf16 and f32 share. K's words [DK / K_PER][PAGE], V's [PAGE][V_UNITS].
// After K_WORD(x, y), the word of one or two numbers of K, K_CODE and K_WIDEN (a code times it is the number); the same of V.
#ifdef K_WORD
#define AT_K 0
#define K_VALUE(rec, code, d, j, unit) ((code) * K_WIDEN)
#endif
#ifdef V_WORD
#define V_VALUE(rec, code, t, j) ((code) * V_WIDEN)
#endif
#ifdef SEALING
#ifdef K_WORD
inline void encode_k(dptr<uint> rec, vlane lane, int d, thread const channels& x) {
    UNROLL for (int b = 0; b < BLOCKS; ++b)
        UNROLL for (int e = 0; e < K_STEP; e += K_PER)
            st(rec, lane + ((d + e) / K_PER * PAGE + 32 * b), K_WORD(x.v[e][b], x.v[e + K_PER - 1][b]),
               first(lane, BLOCK));
}
#endif
#ifdef V_WORD
inline void encode_v(dptr<uint> rec, vlane lane, int t, thread token& x) {
    UNROLL for (int c = 0; c < V_COLUMNS; ++c)
        st(rec, lane + (AT_V + t * V_UNITS + 32 * c), V_WORD(x.v[c][0], x.v[c][V_PER - 1]),
           first(lane, V_UNITS - 32 * c));
}
#endif
#endif
