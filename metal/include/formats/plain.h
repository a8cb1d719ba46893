// Records of plain floating-point K and V: what f16, bf16 and f32 share. K words [DK / K_PER][PAGE], V words
// [PAGE][DV / V_PER].
#include "pages.h"
// After K_PER, V_PER, CODE(w, j): number j of a word, divided by WIDEN; PACK(x, y): the word of one or two numbers.
#define K_CODE(w, j) CODE(w, j)
#define V_CODE(w, j) CODE(w, j)
#define AT_K 0
#define AT_V (DK / K_PER * PAGE)
#define AT_END (AT_V + PAGE * V_WORDS)
#define K_VALUE(rec, code, d, j) ((code) * WIDEN)
#define V_VALUE(rec, code, t, j) ((code) * WIDEN)
inline void encode_k(dptr<uint> rec, vlane lane, int d, thread const quads& x) {
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        dptr<uint> to = rec + (AT_K + d / K_PER * PAGE + 32 * b);
#if K_PER == 2
        st(to, lane, PACK(x.v[b].x, x.v[b].y), first(lane, BLOCK));
        st(to + PAGE, lane, PACK(x.v[b].z, x.v[b].w), first(lane, BLOCK));
#else
        st(to, lane, PACK(x.v[b].x, 0), first(lane, BLOCK));
        st(to + PAGE, lane, PACK(x.v[b].y, 0), first(lane, BLOCK));
        st(to + 2 * PAGE, lane, PACK(x.v[b].z, 0), first(lane, BLOCK));
        st(to + 3 * PAGE, lane, PACK(x.v[b].w, 0), first(lane, BLOCK));
#endif
    }
}
inline void encode_v(dptr<uint> rec, vlane lane, int t, thread const token& x) {
    UNROLL for (int c = 0; c < V_COLUMNS; ++c)
        st(rec, lane + (AT_V + t * V_WORDS + 32 * c), PACK(x.v[c][0], x.v[c][V_PER - 1]),
           first(lane, V_WORDS - 32 * c));
}
