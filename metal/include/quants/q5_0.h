// GGUF Q5_0: 32 weights in 22 bytes: see blocks_0.h.
#define FIFTHS 1
#include "quants/blocks_0.h"
