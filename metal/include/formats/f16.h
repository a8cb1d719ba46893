// Page format f16: K and V as half precision numbers, two in a word, the lower channel in the low half.
#define K_PER 2
#define V_PER 2
#if HOST
// A CPU widens a half fastest by moving its bits: the value comes out times 2^-112, exactly (infinities excepted).
inline vfloat half_code(vuint w, int j) { return as_float(vuint(vint(j == 0 ? w << 16 : w) >> 3) & 0x8fffe000u); }
#define WIDEN 0x1p112f
#define CODE(w, j) half_code(w, j)
#define K_UNIT 0x1p56f                                    // half of it at each end: all stays in fp32's range
#define S_UNIT 0x1p56f
#define P_UNIT 0x1p56f
#define V_UNIT(j) 0x1p56f
#else
#define WIDEN 1.0f
#define CODE(w, j) ((j) == 0 ? half_lo(w) : half_hi(w))
#endif
#define PACK(x, y) half_pair(x, y)
#include "formats/plain.h"
