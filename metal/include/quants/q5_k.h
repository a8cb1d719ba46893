// GGUF Q5_K: 256 weights in 176 bytes: see k_blocks.h.
#define FIFTHS 1
#include "quants/k_blocks.h"
