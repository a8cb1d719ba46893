// Page format f32: K and V as single precision numbers.
#define K_PER 1
#define V_PER 1
#define WIDEN 1.0f
#define CODE(w, j) as_float(w)
#define PACK(x, y) as_uint(x)
#include "formats/plain.h"
