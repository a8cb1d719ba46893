// The three magnitudes of the IQ2 types.
#define EACH_SIZE(V) V(8), V(25), V(43), V(0)
#define ZERO 64
#define CODES 7
#define ENTRY 8
#include "quants/grids.h"
