// The 16 values of IQ4_NL and IQ4_XS.
#define EACH_VALUE(V) V(-127), V(-104), V(-83), V(-65), V(-49), V(-35), V(-22), V(-10), V(1), V(13), V(25), V(38), V(53), V(69), V(89), V(113)
#define ZERO 128
#define CODES 8
#include "quants/values.h"
