// GGUF Q4_0: 32 weights in 18 bytes: see blocks_0.h.
#define FIFTHS 0
#include "quants/blocks_0.h"
