// y[B, N] = x[B, K] W[N, K]^T for 1 to 8 rows of x, straight on stored weights, 256 of them a step.
// Built with a header of quants/, then: XTYPE, YTYPE, B, SGS, ROWS; SWIGLU, BIAS, RESIDUAL (0 or 1), NORM_EPS (or not);
//   NORM_EPS   x is first normed: x * rsqrt(mean(x^2) + NORM_EPS) * norm[K]
//   SWIGLU     W is gate over up, N rows each: y = silu(gate) * up
//   BIAS       y += bias[N];   RESIDUAL   y += residual[B, N]
//   RANK       (not 0) y += L t, before SWIGLU: see low_rank.h; t [B, RANK]
//   STREAM 0   (GPU) a SIMD-group reads ROWS rows side by side, so that x is loaded once for them
//   STREAM 1   (CPU) x is prepared once per threadgroup, in threadgroup memory. Built with TAIL, K % 256: the weights of a row behind
//              its whole steps. Those of four rows are joined: see tails.h. Floats of threadgroup memory: B * (TILES * 288 + K +
//              256 * TAIL_TILES + SGS * 1025), TILES = K / 256 + TAIL_TILES, and for L, where its products are of integers, B * LOW_FLOATS
//   BYTES 1    (STREAM 1) products of integers: see digits.h
// A SIMD-group owns `own` rows of y. Grid: N / (own * SGS) threadgroups.
#ifndef NORM_EPS
#define norm x
#endif

struct results { vfloat y[B]; };                          // lane = row of W

#if BYTES
#include "digits.h"
#else
#define TILE 288                                          // floats: 8 x of 32 lanes, and their totals
#define CHUNK chunk
#define LOAD load
struct activation { vfloat x[8]; vfloat total; };         // in units of the codes

inline activation in_units(vfloats t, vlane) {
    activation a;
    a.total = ((t.v[0] + t.v[1]) + (t.v[2] + t.v[3])) + ((t.v[4] + t.v[5]) + (t.v[6] + t.v[7]));
    UNROLL for (int i = 0; i < 8; ++i) a.x[i] = t.v[i] * (1.0f / UNIT(i));
    return a;
}
typedef vfloat row_sum;                                   // of products, a lane's own
typedef vtotal row_total;                                 // the same where lanes need not be told apart
template <typename S> inline S nothing() { S s; s = 0.0f; return s; }
inline vtotal whole(vtotal s) { return s; }
template <int N> inline vtotal add_row(vtotal t, row_sum s, int r, vlane lane) { return add_range<N>(t, s, r, lane); }
template <int N, int FROM> inline chunk join(chunk a, chunk b, chunk c, chunk d, vlane lane) {
    UNROLL for (int i = 0; i < 8; ++i) a.c[i] = join<N, FROM>(a.c[i], b.c[i], c.c[i], d.c[i], lane);
    a.scale = join<N, FROM>(a.scale, b.scale, c.scale, d.scale, lane);
    a.offset = join<N, FROM>(a.offset, b.offset, c.offset, d.offset, lane);
    return a;
}
template <typename S> inline void add_dot(thread S& sum, thread const chunk& q, activation a, vlane) {
    vfloat lo = q.c[0] * a.x[0] + q.c[1] * a.x[1] + q.c[2] * a.x[2] + q.c[3] * a.x[3];
    vfloat hi = q.c[4] * a.x[4] + q.c[5] * a.x[5] + q.c[6] * a.x[6] + q.c[7] * a.x[7];
#if OFFSET
    sum = sum + q.offset * a.total;
#endif
#if SCALES
    sum = sum + q.scale * (lo + hi);
#else
    sum = sum + (lo + hi);
#endif
}
inline void stage(tptr<float> s, activation a, vlane lane) {
    UNROLL for (int i = 0; i < 8; ++i) s[lane + 32 * i] = a.x[i];
    s[lane + 256] = a.total;
}
inline activation staged(tptr<float> s, vlane lane) {
    activation a;
    UNROLL for (int i = 0; i < 8; ++i) a.x[i] = s[lane + 32 * i];
    a.total = s[lane + 256];
    return a;
}
#endif

#if RANK && BYTES && FACTOR < 16
#define LOW_BYTES 1                                       // products with L are of integers too
#define FACTORS factor l,
#define LOW_FACTOR LOW,
#else
#define LOW_BYTES 0
#define FACTORS
#define LOW_FACTOR
#endif

#if STREAM
struct sums { row_total v[B]; };                          // of a row
struct lane_sums { row_sum v[B]; };

// A step's weights times x, a lane's 8, added to s. tile: those of x; stride: from one row of x to the next.
template <typename S> inline void products(thread S& s, thread const CHUNK& q, tptr<float> tile, int stride, vlane lane) {
    UNROLL for (int b = 0; b < B; ++b) add_dot(s.v[b], q, staged(tile + b * stride, lane), lane);
}
template <typename S, typename T> inline S none() {
    S s;
    UNROLL for (int b = 0; b < B; ++b) s.v[b] = nothing<T>();
    return s;
}
#include "tails.h"
#ifndef SIDE
#define SIDE (REGISTERS == 32 ? 4 : 1)                    // rows that are read side by side
#endif
#define ROWS_AT_ONCE (B == 1 ? SIDE : B == 2 && SIDE > 1 ? 2 : 1)
#ifndef HINTED
#define HINTED 48                                         // steps between a hint and its weights
#endif
#ifndef NEAR
#define NEAR (REGISTERS == 16 ? 16384 : 1 << 24)          // bytes of x; with more registers all, as less has not been timed
#endif
#define AT_ONCE max(1, NEAR / (B * TILE * 4))             // steps whose x stays near
// Where row `row` of these has its first weights; for one behind them: the next part's of these rows, or those of the next rows.
inline weights start_of(weights w, long row0, int row, int rows, int from, int some, int steps, int K) {
    bool behind = row >= rows, last = from + some >= steps;
    return at(w, row0 + (behind && !last ? row - rows : row), (behind ? (last ? 0 : from + some) : from) * STEP, K);
}
// Rows row0 .. row0 + rows - 1 of W (32 at most) times x. ends: B * 1024 floats, in which each row's total waits for the others. Some rows at once are read faster than one after the other, as long as what they need stays in registers; and where x is
// long, part of all of these rows after part, as long as what that needs of x stays in the nearest cache.
APART results multiply(weights w, FACTORS tptr<float> tiles, tptr<float> ends, vlane lane, long row0, int rows, int K) {
#if WIDTH
    K = WIDTH;                                            // few steps: addresses that are not worked out cost less than they take
#endif
    int steps = K / STEP, stride = (steps + TAIL_TILES) * TILE, turns = HINTED / ROWS_AT_ONCE;
    int parts = max((steps + AT_ONCE - 1) / AT_ONCE, 1), some = max((steps + parts - 1) / parts, 1);
    int whole_rows = turns / some * ROWS_AT_ONCE, further = turns % some;
    for (int from = 0; from == 0 || from < steps; from += some) {
        int n = min(some, steps - from);
        for (int row = 0; row < rows; row += ROWS_AT_ONCE) {
#if LOW_BYTES
            if (from == 0 && row % 8 == 0) low_ahead(l, int(row0) + 32 + row, 8);   // of the next 32 rows, not all at once: few requests wait for memory
#endif
#if TAIL
            if (row % 4 == 0 && from == 0) {
                UNROLL for (int r = 0; r < 4; ++r) ahead(at(w, row0 + row + r + whole_rows, steps * STEP, K));
                tails(w, tiles + steps * TILE, stride, ends, lane, row0, row, rows, K);
            }
#endif
            sums all[ROWS_AT_ONCE];
            weights here[ROWS_AT_ONCE], soon[ROWS_AT_ONCE], later[ROWS_AT_ONCE];   // soon: in the row that is hinted at; later: in the next
            UNROLL for (int r = 0; r < ROWS_AT_ONCE; ++r) {
                all[r] = none<sums, row_total>();
                here[r] = at(w, row0 + min(row + r, rows - 1), from * STEP, K);
                soon[r] = at(start_of(w, row0, row + r + whole_rows, rows, from, some, steps, K), 0, further * STEP, K);
                later[r] = start_of(w, row0, row + r + whole_rows + ROWS_AT_ONCE, rows, from, some, steps, K);
            }
            for (int i = 0; i < n; ++i) {
                bool in_row = i + further < n;
                UNROLL for (int r = 0; r < ROWS_AT_ONCE; ++r)
                    ahead(in_row ? at(soon[r], 0, i * STEP, K) : at(later[r], 0, (i + further - n) * STEP, K));
                UNROLL for (int r = 0; r < ROWS_AT_ONCE; ++r) {
                    CHUNK q = LOAD(at(here[r], 0, i * STEP, K), lane, STEP);
                    products(all[r], q, tiles + (from + i) * TILE, stride, lane);
                }
            }
            UNROLL for (int r = 0; r < ROWS_AT_ONCE; ++r)
                if (row + r < rows)
                    UNROLL for (int b = 0; b < B; ++b) {
                        tptr<float> end = ends + (b * 32 + row + r) * TOTAL;
                        vtotal sum = whole(all[r].v[b]);
                        if (TAIL || from > 0) sum = sum + get_total(end, lane);
                        put_total(end, sum, lane);
                    }
        }
    }
    results out;
    SG_BARRIER;
    UNROLL for (int b = 0; b < B; ++b) out.y[b] = sum_rows(ends + b * 32 * TOTAL, lane, rows);
    SG_BARRIER;
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
APART results multiply(weights w, dptr<const XTYPE> x, dptr<const XTYPE> gain, vlane lane, long row0, int rows,
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
            a[b] = in_units(t, lane);
        }
        UNROLL for (int r = 0; r < ROWS; ++r) {
            chunk q = load(at(w, row0 + min(r, rows - 1), k, K), lane, n);
            UNROLL for (int b = 0; b < B; ++b) add_dot(sums[r][b], q, a[b], lane);
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

#if LOW_BYTES
#include "low_rank_int8.h"
#elif RANK
#define GIVEN t
// Adds L t to what lanes 0 .. rows - 1 have: rows row0 .. of W.
APART void correct(thread results& out, factor l, dptr<const XTYPE> t, vlane lane, int row0, int rows) {
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
              dptr<YTYPE> y, int N, int K, int own, GRID) {
#if STREAM
    int count = K / STEP + TAIL_TILES, length = K + STEP * TAIL_TILES;     // tiles; numbers of a row of x, with what tails want
    tptr<float> tiles = shared + B * length, sums_of = tiles + B * count * TILE, squares = sums_of + B * SGS * 1024;
#if LOW_BYTES
    tptr<float> digits = squares + B * SGS;
#endif
    SIMDGROUPS {                                          // x, normed
        for (int b = 0; b < B; ++b) {
            vfloat sum = 0.0f;
            for (int p = sg * 32; p < K; p += SGS * 32) {
                vfloat v = vfloat(ld(x, lane + (b * K + p)));
#ifdef NORM_EPS
                sum += v * v;
                v = v * vfloat(ld(norm, lane + p));
#endif
                shared[lane + (b * length + p)] = v;
#if TAIL
                for (int at = 0; at < STEP * TAIL_TILES; at += 32)
                    if (K - TAIL + TAIL_OF(at) == p) shared[lane + (b * length + K + at)] = v;
#endif
            }
#ifdef NORM_EPS
            st(squares, lane + (b * SGS + sg), vfloat(simd_sum(sum)), first(lane, 1));
#endif
        }
#if LOW_BYTES
        if (sg == 0) {
            low_ahead(LOW, tg.x * SGS * own, 32);
#if SWIGLU
            low_ahead(LOW, tg.x * SGS * own + N, 32);
#endif
            prepare(t, digits, lane);
        }
#endif
    }
    TG_BARRIER;
    int hints = max(2, HINTED / (B * count));
    SIMDGROUPS {                                          // as the lanes of each step want it
        for (int i = sg; i < B * count; i += SGS) {
            int from = i % count < K / STEP ? i % count * STEP : K + (i % count - K / STEP) * STEP;
            for (int h = i * hints; h < (i + 1) * hints; ++h) ahead(at(WEIGHTS, tg.x * SGS * own, h * STEP, K));     // of the first steps
            stage(tiles + i * TILE, in_units(take(shared + (i / count * length + from), lane, STEP), lane), lane);
        }
    }
    TG_BARRIER;
#endif
    SIMDGROUPS {
        int from = (tg.x * SGS + sg) * own, to = min(from + own, N);
        for (int row0 = from; row0 < to; row0 += ROWS) {
            int rows = min(ROWS, to - row0);
#if STREAM
            results out = multiply(WEIGHTS, LOW_FACTOR tiles, sums_of + B * sg * 1024, lane, row0, rows, K);
            normed(out, squares, K);
#else
            results out = multiply(WEIGHTS, x, norm, lane, row0, rows, K);
#endif
#if RANK
            correct(out, LOW, GIVEN, lane, row0, rows);
#endif
#if SWIGLU
#if STREAM
            results up = multiply(WEIGHTS, LOW_FACTOR tiles, sums_of + B * sg * 1024, lane, row0 + N, rows, K);
            normed(up, squares, K);
#else
            results up = multiply(WEIGHTS, x, norm, lane, row0 + N, rows, K);
#endif
#if RANK
            correct(up, LOW, GIVEN, lane, row0 + N, rows);
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
