// y[unit][lane] = sum, modulo 2^32, of the words of a unit whose number leaves `lane` modulo 32: how fast memory can be read.
// Built with SGS. A SIMD-group is a unit and takes `own` words (a multiple of 128) of w's `count`, below 2^31.
#define AHEAD 2048                                        // words that are prefetched
KERNEL read_bound(dptr<const uint> w, dptr<uint> y, int count, int own, GRID) {
    SIMDGROUPS {
        int unit = tg.x * SGS + sg, n = min(own, count - unit * own), i = 0;
        dptr<const uint> mine = w + long(unit) * own;
        vuint sums[4];
        UNROLL for (int j = 0; j < 4; ++j) sums[j] = 0u;
        for (; i + 128 <= n; i += 128) {
            prefetch(mine + (i + AHEAD), 128);
            UNROLL for (int j = 0; j < 4; ++j) {
                vuint x = ld(mine, lane + (i + 32 * j));
                sums[j] = sums[j] + x;
            }
        }
        for (; i < n; i += 32) {
            vuint x = ld(mine, lane + i, first(lane, n - i));
            sums[0] = sums[0] + x;
        }
        st(y, lane + unit * 32, (sums[0] + sums[1]) + (sums[2] + sums[3]), first(lane, 32));
    }
}
