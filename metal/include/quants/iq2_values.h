// The three magnitudes of the IQ2 types.
TABLE16(VALUES, 8.0f, 25.0f, 43.0f, 0.0f, 8.0f, 25.0f, 43.0f, 0.0f, 8.0f, 25.0f, 43.0f, 0.0f, 8.0f, 25.0f, 43.0f, 0.0f);
#define ENTRY 8
#include "quants/grids.h"
