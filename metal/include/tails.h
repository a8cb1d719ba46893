// q_gemv's products with what rows of W have behind their last whole step: TAIL weights, a multiple of 32. Of four rows at once, as
// a step has room for four times 64, or twice 128; of up to 192 there are first 128, then 64; more go row by row, as do those of types
// with OWN_STEP. After `products`.
#if TAIL && OWN_STEP
#define JOINED STEP
#else
#define JOINED ((TAIL + 32) / 64 * 64)
#endif
#define TAIL_TILES (JOINED == 192 ? 2 : TAIL > 0)
#if TAIL
#define WIDE (JOINED == 192 ? 128 : JOINED)               // weights of a row in its first step
// What these steps want of x, for multiples of 32: number `at` of them is which one of the tail. What rows lack is zero in W.
#define TAIL_OF(at) ((at) < STEP ? (at) % WIDE % min(WIDE, TAIL) : WIDE + (at) % 64 % max(TAIL - WIDE, 1))

struct four_rows { vtotal v[4][B]; };

// A step with N weights of each of a few rows, from lane FROM of theirs on: added to the sums of rows `row` on.
template <int N, int FROM> inline void joined(thread four_rows& s, CHUNK a, CHUNK b, CHUNK c, CHUNK d, tptr<float> tile, int stride, vlane lane, int row) {
    lane_sums all = none<lane_sums, row_sum>();
    products(all, join<N, FROM>(a, b, c, d, lane), tile, stride, lane);
    UNROLL for (int r = 0; r < 32 / N; ++r)
        UNROLL for (int i = 0; i < B; ++i) s.v[row + r][i] = add_row<N>(s.v[row + r][i], all.v[i], r, lane);
}
// Puts the sums of rows row .. row + 3 into ends, where there is room for rows that W lacks: asking which those are takes longer.
inline void tails(weights w, tptr<float> tile, int stride, tptr<float> ends, vlane lane, long row0, int row, int rows, int K) {
    CHUNK q[4];
    four_rows s;
    // Where lanes are for TAIL weights alone, whole steps are read, which is faster, if they do not end behind row rows - 1.
    if (JOINED == TAIL && (rows - row - 4) * K + TAIL >= STEP)
        UNROLL for (int r = 0; r < 4; ++r) q[r] = LOAD(at(w, row0 + row + r, K / STEP * STEP, K), lane, STEP);
    else
        UNROLL for (int r = 0; r < 4; ++r) q[r] = LOAD(at(w, row0 + min(row + r, rows - 1), K / STEP * STEP, K), lane, TAIL);
    UNROLL for (int r = 0; r < 4; ++r) UNROLL for (int i = 0; i < B; ++i) s.v[r][i] = 0.0f;
#if JOINED == STEP
    UNROLL for (int r = 0; r < 4; ++r) {
        sums all = none<sums, row_total>();
        products(all, q[r], tile, stride, lane);
        UNROLL for (int i = 0; i < B; ++i) s.v[r][i] = whole(all.v[i]);
    }
#elif JOINED == 64
    joined<8, 0>(s, q[0], q[1], q[2], q[3], tile, stride, lane, 0);
#else
    UNROLL for (int r = 0; r < 4; r += 2) joined<16, 0>(s, q[r], q[r + 1], q[r], q[r + 1], tile, stride, lane, r);
#if JOINED == 192
    joined<8, 16>(s, q[0], q[1], q[2], q[3], tile + TILE, stride, lane, 0);
#endif
#endif
    UNROLL for (int r = 0; r < 4; ++r)
        UNROLL for (int i = 0; i < B; ++i) put_total(ends + (i * 32 + row + r) * TOTAL, s.v[r][i], lane);
}
#endif
