// Trellis-coded quantization (mlxr/pages/trellis.py): what k_first and encode_v share. A path of each lane over numbers one after
// the other; a state is u[n], u[n - 1], u[n - 2] from the lowest bit up.
#ifdef SEALING
struct trellis { vfloat m[8]; };                          // the least sum of costs of paths to each state
inline void trellis_start(thread trellis& t) {
    UNROLL for (int s = 0; s < 8; ++s) t.m[s] = s == 0 ? 0.0f : 1e30f;
}
// One number more, of `count` levels: where paths to the states come from, a bit each, then r of the four subsets, 3 bits each.
template <typename P> inline vuint trellis_step(thread trellis& t, vfloat x, float weight, P levels, int count) {
    vfloat best[4];
    vuint which[4];
    UNROLL for (int q = 0; q < 4; ++q) {
        vfloat e = x - levels[q];
        best[q] = e * e;
        which[q] = 0u;
    }
    for (int r = 1; r < count / 4; ++r)
        UNROLL for (int q = 0; q < 4; ++q) {
            vfloat e = x - levels[4 * r + q];
            e = e * e;
            which[q] = select(which[q], vuint(uint(r)), e < best[q]);
            best[q] = min(best[q], e);
        }
    vuint kept = which[0] << 8 | which[1] << 11 | which[2] << 14 | which[3] << 17;
    UNROLL for (int q = 0; q < 4; ++q) best[q] = best[q] * weight;
    vfloat next[8];
    UNROLL for (int s = 0; s < 8; ++s) {
        const int zero = s >> 2 & 1, one = (s ^ s >> 1) & 1;
        vfloat a = t.m[s >> 1] + best[zero + 2 * one], b = t.m[s >> 1 | 4] + best[zero + 2 * (one ^ 1)];
        next[s] = select(a, b, b < a);
        kept |= select(vuint(0u), vuint(1u << s), b < a);
    }
    UNROLL for (int s = 0; s < 8; ++s) t.m[s] = next[s];
    return kept;
}
// The state at which the best path ends.
inline vuint trellis_end(thread trellis& t) {
    vfloat least = t.m[0];
    vuint state = 0u;
    UNROLL for (int s = 1; s < 8; ++s) {
        state = select(state, vuint(uint(s)), t.m[s] < least);
        least = min(least, t.m[s]);
    }
    return state;
}
// The level's number at the last step, from what that step kept; `state` becomes the one before.
inline vuint trellis_back(thread vuint& state, vuint kept) {
    vuint second = kept >> state & 1u, subset = (state >> 2 & 1u) | ((state ^ state >> 1 ^ second) & 1u) << 1;
    state = state >> 1 | second << 2;
    return (kept >> (subset * 3u + 8u) & 7u) << 2 | subset;
}
#endif
