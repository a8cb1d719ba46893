// Page format bf16: K and V as bfloat16 numbers, two in a word, the lower channel in the low half.
#define K_PER 2
#define V_PER 2
#define WIDEN 1.0f
#define CODE(w, j) ((j) == 0 ? bfloat_lo(w) : bfloat_hi(w))
inline vuint bfloat_bits(vfloat x) {                      // to nearest even, NaN kept
    vuint u = as_uint(x);
    return select((u + (((u >> 16) & 1u) + 0x7fffu)) >> 16, (u >> 16) | 64u, (u & 0x7fffffffu) > 0x7f800000u);
}
#define PACK(x, y) (bfloat_bits(x) | bfloat_bits(y) << 16)
#include "formats/plain.h"
