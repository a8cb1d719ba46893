// Page format f16: K and V as half precision numbers, two in a word, the lower channel in the low half.
#include "pages.h"
#if HOST
// A CPU widens a half fastest by moving its bits: the value comes out times 2^-112, exactly. (Infinities
// and NaN excepted, which become 65536 and more.)
inline vfloat half_code(vuint w, int j) { return as_float(vuint(vint(j == 0 ? w << 16 : w) >> 3) & 0x8fffe000u); }
#define HALF_WIDEN 0x1p112f
#else
inline vfloat half_code(vuint w, int j) { return j == 0 ? half_lo(w) : half_hi(w); }
#define HALF_WIDEN 1.0f
#endif
#ifdef K_F16
#define K_CODE(w, j) half_code((w)[0], j)
#define K_WIDEN HALF_WIDEN
#define K_WORD(x, y) half_pair(x, y)
#if HOST
#define K_UNIT 0x1p56f                                    // half of it at each end: all stays in fp32's range
#define S_UNIT 0x1p56f
#endif
#endif
#ifdef V_F16
#define V_CODE(w, j) half_code((w)[0], j)
#define V_WIDEN HALF_WIDEN
#define V_WORD(x, y) half_pair(x, y)
#if HOST
#define P_UNIT 0x1p56f
#define V_UNIT(j) 0x1p56f
#endif
#endif
