// GGUF Q5_1: 32 weights in 24 bytes: see blocks_1.h.
#define FIFTHS 1
#include "quants/blocks_1.h"
