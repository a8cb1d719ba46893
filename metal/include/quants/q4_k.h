// GGUF Q4_K: 256 weights in 144 bytes: see k_blocks.h.
#define FIFTHS 0
#include "quants/k_blocks.h"
