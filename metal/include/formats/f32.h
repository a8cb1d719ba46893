// Page format f32: K and V as single precision numbers.
#include "pages.h"
#ifdef K_F32
#define K_CODE(w, j) as_float((w)[0])
#define K_WIDEN 1.0f
#define K_WORD(x, y) as_uint(x)
#endif
#ifdef V_F32
#define V_CODE(w, j) as_float((w)[0])
#define V_WIDEN 1.0f
#define V_WORD(x, y) as_uint(x)
#endif
