// GGUF Q4_1: 32 weights in 20 bytes: see blocks_1.h.
#define FIFTHS 0
#include "quants/blocks_1.h"
