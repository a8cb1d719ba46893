// Page format bf16: K and V as bfloat16 numbers, two in a word, the lower channel in the low half.
#include "pages.h"
inline vuint bfloat_bits(vfloat x) {                      // to nearest even, NaN kept
    vuint u = as_uint(x);
    return select((u + (((u >> 16) & 1u) + 0x7fffu)) >> 16, (u >> 16) | 64u, (u & 0x7fffffffu) > 0x7f800000u);
}
inline vfloat bfloat_code(vuint w, int j) { return j == 0 ? bfloat_lo(w) : bfloat_hi(w); }
inline vuint bfloat_pair(vfloat x, vfloat y) { return bfloat_bits(x) | bfloat_bits(y) << 16; }
#ifdef K_BF16
#define K_CODE(w, j) bfloat_code((w)[0], j)
#define K_WIDEN 1.0f
#define K_WORD(x, y) bfloat_pair(x, y)
#endif
#ifdef V_BF16
#define V_CODE(w, j) bfloat_code((w)[0], j)
#define V_WIDEN 1.0f
#define V_WORD(x, y) bfloat_pair(x, y)
#endif
