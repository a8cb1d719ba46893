// y[B, N] = x[B, K] W[N, K]^T for 1 to 8 rows of x, straight on stored weights, 256 of them a step.
// Built with a header of quants/, then: XTYPE, YTYPE, B, SGS, ROWS; SWIGLU, BIAS, RESIDUAL (0 or 1), NORM_EPS (or not);
//   NORM_EPS   x is first normed: x * rsqrt(mean(x^2) + NORM_EPS) * norm[K]
//   SWIGLU     W is gate over up, N rows each: y = silu(gate) * up
//   BIAS       y += bias[N];   RESIDUAL   y += residual[B, N]
//   RANK       (not 0) y += L t, before SWIGLU: see low_rank.h; t [B, RANK]
//   STREAM 0   (GPU) a SIMD-group reads ROWS rows side by side, so that x is loaded once for them
//   STREAM 1   (CPU) it reads its rows as one stream, whatever K: x is prepared once per threadgroup, in threadgroup
//              memory, for every position of the stream. Floats of it: B * (T * (256 + 288) + SGS), T = K / gcd(K, 256)
// A SIMD-group owns `own` rows of y. Grid: N / (own * SGS) threadgroups.
#ifndef NORM_EPS
#define norm x
#endif

struct activation { vfloat x[8]; vfloat total; };         // in units of the codes
struct results { vfloat y[B]; };                          // lane = row of W

inline activation in_units(vfloats t) {
    activation a;
    a.total = ((t.v[0] + t.v[1]) + (t.v[2] + t.v[3])) + ((t.v[4] + t.v[5]) + (t.v[6] + t.v[7]));
    UNROLL for (int i = 0; i < 8; ++i) a.x[i] = t.v[i] * (1.0f / UNIT(i));
    return a;
}
inline vfloat dot(thread const chunk& q, thread const activation& a) {
    vfloat lo = q.c[0] * a.x[0] + q.c[1] * a.x[1] + q.c[2] * a.x[2] + q.c[3] * a.x[3];
    vfloat hi = q.c[4] * a.x[4] + q.c[5] * a.x[5] + q.c[6] * a.x[6] + q.c[7] * a.x[7];
#if OFFSET
    return q.scale * (lo + hi) + q.offset * a.total;
#elif SCALES
    return q.scale * (lo + hi);
#else
    return lo + hi;
#endif
}

#if STREAM
#ifndef AHEAD
#define AHEAD 32                                          // steps that are prefetched
#endif
#define TILE 288                                          // floats: 8 x of 32 lanes, and their totals
inline activation staged(tptr<float> s, vlane lane) {
    activation a;
    UNROLL for (int i = 0; i < 8; ++i) a.x[i] = s[lane + 32 * i];
    a.total = s[lane + 256];
    return a;
}
// Rows row0 .. row0 + rows - 1 of W (32 at most) times x, as one stream of rows * K weights.
inline results multiply(weights w, tptr<float> tiles, vlane lane, int period, long row0, int rows, int K) {
    results out;
    vfloat sums[B];                                       // of the row that the stream is in
    UNROLL for (int b = 0; b < B; ++b) { out.y[b] = 0.0f; sums[b] = 0.0f; }
    int row = 0, left = K, tile = 0;                      // weights left of this row
    for (int p = 0; p < rows * K; p += STEP) {
        int n = min(STEP, rows * K - p);
        ahead(at(w, row0, p + AHEAD * STEP, K));
        vfloat part[B];
        if (n == STEP) {
            chunk q = load(at(w, row0, p, K), lane, STEP);
            UNROLL for (int b = 0; b < B; ++b) part[b] = dot(q, staged(tiles + (b * period + tile) * TILE, lane));
        } else {
            chunk q = load(at(w, row0, p, K), lane, n);
            UNROLL for (int b = 0; b < B; ++b) part[b] = dot(q, staged(tiles + (b * period + tile) * TILE, lane));
        }
        tile = tile + 1 == period ? 0 : tile + 1;
        int done = 0;                                     // of this step's lanes
        while (left <= n) {
            UNROLL for (int b = 0; b < B; ++b) {
                vfloat whole = sums[b] + select(vfloat(0.0f), part[b], vint(lane) >= done && vint(lane) < left / 8);
                out.y[b] = select(out.y[b], vfloat(simd_sum(whole)), vint(lane) == row);
                sums[b] = 0.0f;
            }
            done = left / 8;
            left += K;
            row += 1;
        }
        left -= n;
        UNROLL for (int b = 0; b < B; ++b)
            sums[b] += done == 0 ? part[b] : select(vfloat(0.0f), part[b], vint(lane) >= done);
    }
    return out;
}
inline void normed(thread results& out, tptr<float> squares, int K) {
#ifdef NORM_EPS
    UNROLL for (int b = 0; b < B; ++b) {
        float sum = 0.0f;
        for (int i = 0; i < SGS; ++i) sum += squares[b * SGS + i];
        out.y[b] = out.y[b] * rsqrt(sum / float(K) + NORM_EPS);
    }
#endif
}
#else
// Rows row0 .. row0 + rows - 1 of W (ROWS at most) times x, side by side.
inline results multiply(weights w, dptr<const XTYPE> x, dptr<const XTYPE> gain, vlane lane, long row0, int rows,
                        int K) {
    vfloat sums[ROWS][B], squares[B];
    UNROLL for (int b = 0; b < B; ++b) {
        squares[b] = 0.0f;
        UNROLL for (int r = 0; r < ROWS; ++r) sums[r][b] = 0.0f;
    }
    for (int k = 0; k < K; k += STEP) {
        int n = min(STEP, K - k);
        activation a[B];
        UNROLL for (int b = 0; b < B; ++b) {
            vfloats t = take(x + (b * K + k), lane, n);
#ifdef NORM_EPS
            vfloats g = take(gain + k, lane, n);
            UNROLL for (int i = 0; i < 8; ++i) { squares[b] += t.v[i] * t.v[i]; t.v[i] = t.v[i] * g.v[i]; }
#endif
            a[b] = in_units(t);
        }
        UNROLL for (int r = 0; r < ROWS; ++r) {
            chunk q = load(at(w, row0 + min(r, rows - 1), k, K), lane, n);
            UNROLL for (int b = 0; b < B; ++b) sums[r][b] += dot(q, a[b]);
        }
    }
    results out;
    UNROLL for (int b = 0; b < B; ++b) {
        out.y[b] = 0.0f;
        UNROLL for (int r = 0; r < ROWS; ++r)
            out.y[b] = select(out.y[b], vfloat(simd_sum(sums[r][b])), vint(lane) == r);
#ifdef NORM_EPS
        out.y[b] = out.y[b] * rsqrt(simd_sum(squares[b]) / float(K) + NORM_EPS);
#endif
    }
    return out;
}
#endif

#if RANK
// Adds L t to what lanes 0 .. rows - 1 have: rows row0 .. of W.
inline void correct(thread results& out, factor l, dptr<const XTYPE> t, vlane lane, int row0, int rows) {
    vint row = row0 + min(vint(lane), vint(rows - 1));
    for (int k = 0; k < RANK; k += 32) {
        block b = factors(l, row, k);
        UNROLL for (int i = 0; i < B; ++i) {
            vfloat sums[4];                               // so that additions need not wait for each other
            UNROLL for (int e = 0; e < 4; ++e) sums[e] = b.v[e] * float(t[i * RANK + k + e]);
            UNROLL for (int e = 4; e < 32; ++e) sums[e % 4] += b.v[e] * float(t[i * RANK + k + e]);
            out.y[i] += (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    }
}
#endif

KERNEL q_gemv(WEIGHT_PARAMS, dptr<const XTYPE> x,
#if RANK
              LOW_PARAMS, dptr<const XTYPE> t,
#endif
#ifdef NORM_EPS
              dptr<const XTYPE> norm,
#endif
#if BIAS
              dptr<const YTYPE> bias,
#endif
#if RESIDUAL
              dptr<const YTYPE> residual,
#endif
              dptr<YTYPE> y, int N, int K, int own, int period, GRID) {
#if STREAM
    int length = period * STEP;
    tptr<float> tiles = shared + B * length, squares = tiles + B * period * TILE;
    SIMDGROUPS {                                          // x, normed, over and over, for `period` steps
        for (int b = 0; b < B; ++b) {
            vfloat sum = 0.0f;
            for (int p = sg * 32; p < length; p += SGS * 32) {
                vfloat v = vfloat(ld(x, lane + (b * K + p % K)));
#ifdef NORM_EPS
                if (p < K) sum += v * v;
                v = v * vfloat(ld(norm, lane + p % K));
#endif
                shared[lane + (b * length + p)] = v;
            }
#ifdef NORM_EPS
            st(squares, lane + (b * SGS + sg), vfloat(simd_sum(sum)), first(lane, 1));
#endif
        }
    }
    TG_BARRIER;
    SIMDGROUPS {                                          // the same as the lanes of a step want it
        for (int t = sg; t < B * period; t += SGS) {
            activation a = in_units(take(shared + t * STEP, lane, STEP));
            UNROLL for (int i = 0; i < 8; ++i) tiles[lane + (t * TILE + 32 * i)] = a.x[i];
            tiles[lane + (t * TILE + 256)] = a.total;
        }
    }
    TG_BARRIER;
#endif
    SIMDGROUPS {
        int from = (tg.x * SGS + sg) * own, to = min(from + own, N);
        for (int row0 = from; row0 < to; row0 += ROWS) {
            int rows = min(ROWS, to - row0);
#if STREAM
            results out = multiply(WEIGHTS, tiles, lane, period, row0, rows, K);
            normed(out, squares, K);
#else
            results out = multiply(WEIGHTS, x, norm, lane, row0, rows, K);
#endif
#if RANK
            correct(out, LOW, t, lane, row0, rows);
#endif
#if SWIGLU
#if STREAM
            results up = multiply(WEIGHTS, tiles, lane, period, row0 + N, rows, K);
            normed(up, squares, K);
#else
            results up = multiply(WEIGHTS, x, norm, lane, row0 + N, rows, K);
#endif
#if RANK
            correct(up, LOW, t, lane, row0 + N, rows);
#endif
            UNROLL for (int b = 0; b < B; ++b) out.y[b] = out.y[b] / (1.0f + exp2(out.y[b] * -1.44269504f)) * up.y[b];
#endif
            UNROLL for (int b = 0; b < B; ++b) {
                vfloat v = out.y[b];
#if BIAS
                v += vfloat(ld(bias, lane + row0, first(lane, rows)));
#endif
#if RESIDUAL
                v += vfloat(ld(residual, lane + (b * N + row0), first(lane, rows)));
#endif
                st(y, lane + (b * N + row0), v, first(lane, rows));
            }
        }
    }
}
