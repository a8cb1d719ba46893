// What types with blocks of 256 weights share: a lane has 8 consecutive ones, so that lanes 4 j to 4 j + 3 have the 32
// weights j of a block. A row is a whole number of blocks: `n` is always 256.
#define SCALES 1

template <typename P> inline vfloats take(P x, vlane lane, int) {
    return eight(ld4(x, lane * 8, first(lane, 32)), ld4(x, lane * 8 + 4, first(lane, 32)));
}
