// Paged attention of chunks: a tile of SGS * M query rows (row = token * G + query head) of one KV head, over all that
// it sees, 32 tokens a visit: stored pages that lie before its tokens' own, then plain tokens, of the tail and new ones.
// Visits begin at multiples of 32 (of a page where it is smaller), so that sums do not depend on where chunks end.
// Built with the headers of a page format, then QTYPE, KVTYPE, G, M, SGS; SCALE; SINKS (0 or 1);
//   Q_PACKED 1  q is float [KV heads][tokens * G][DK], scaled by SCALE * log2(e), where K_STAGES once more and rotated,
//               and SGS * M spare rows at its end
//   Q_PACKED 0  q is QTYPE [tokens][heads][DK]: a tile is scaled and packed in threadgroup memory
//   ONE 1       K and V of a visit lie side by side: 2 barriers a visit
//   ONE 0       K in parts of KC channels, then V in parts of VT tokens, in the same place
// Grid: x tiles of the longest sequence, y KV heads, z sequences. Threadgroup memory: AT_P + SGS * M * 32 floats.
#define DVP ((DV + 31) / 32 * 32)
#define LOWEST -1e30f                                     // below any score, and finite
#define TILE (SGS * M * DK)                               // floats of a tile of queries
#define AT_KV (Q_PACKED ? 0 : K_STAGES ? 2 * TILE : TILE) // plain ones, and rotated ones
#define MIX (V_STAGES && (DV & (DV - 1)) != 0)            // rotated in blocks: V's columns stay in their own order
#ifndef K_HIGH                                            // channels of K that are halves, before the codes
#define K_HIGH 0
#endif
#ifndef K_ORDER                                           // the channel at a place
#define K_ORDER(rec, i) (i)
#endif
#ifdef V_GIVEN                                            // columns of V, then K's coefficients
#define V_WIDE (DVP + 32 * K_LINES)
#define SEEN(x, d) if ((d) < DVP / 32 || is_coded(x))     // plain tokens have no coefficients
#else
#define V_WIDE DVP
#define SEEN(x, d)
#endif
#define KV_V (ONE ? DK * 32 : 0)                          // K is [channel][32 tokens]; V [token][V_WIDE], see `place`
#define AT_P (AT_KV + (ONE ? DK * 32 + 32 * V_WIDE : KC * 32 > VT * V_WIDE ? KC * 32 : VT * V_WIDE))

struct outputs {
    tile<M> t[V_WIDE / 32];                               // columns as groups give them, j * V_UNITS + group, or as they are
#ifdef V_GIVEN
    vfloat stored;                                        // the sums of probabilities of stored tokens
#endif
};
// Tokens of a visit: n from position `base` on; of a stored page where page >= 0, else `split` in k and v, the rest in k2 and v2.
struct visit {
    int base, n, split, page, stride;
    dptr<const uint> rec;
    dptr<const KVTYPE> k, v, k2, v2;
#ifdef HELD
    int slot;                                             // of a stored page that is held as plain numbers, or 0
    dptr<const HTYPE> held;
#endif
#ifdef K_DECODED
    dptr<const float> tables;
    tptr<float> room;                                     // K_TEAMS times K_SCRATCH and K_STAGED
    int h;
#endif
};

#include "prefill_visit.h"
// The scores in p[M][32] become probabilities; the outputs so far are scaled for a new maximum. Lane r of top and sum
// is row r's.
inline void soften(thread const visit& x, thread outputs& o, thread vfloat& top, thread vfloat& sum, tptr<float> p,
                   vlane lane, int row0, int start, int window) {
    int p0 = start + row0 / G, p1 = start + (row0 + M - 1) / G;
    bool edge = x.n < 32 || x.page < 0 || x.page >= p0 / PAGE || x.base <= p1 - window;
    vfloat high = top;
    for (int r = 0; r < M; ++r) {
        vfloat s = p[lane + r * 32];
        if (edge) {
            int at = start + (row0 + r) / G, own = at / PAGE;
            int from = max(at - window + 1, x.page < 0 ? own * PAGE : 0) - x.base;
            int to = x.page < 0 ? min(x.n, at + 1 - x.base) : x.page < own ? x.n : 0;
            s = select(vfloat(-INFINITY), s, vint(lane) >= max(0, from) && vint(lane) < to);
            p[lane + r * 32] = s;
        }
        high = select(high, vfloat(simd_max(s)), vint(lane) == r);
    }
    high = max(high, top);
    if (simd_max(high - top) > 0.0f) {
        vfloat f = exp2(top - high);
        sum = sum * f;
#ifdef V_GIVEN
        o.stored = o.stored * f;
#endif
        UNROLL for (int c = 0; c < V_WIDE / 32; ++c) scale_rows(o.t[c], f, lane);
        top = high;
    }
    vfloat more = 0.0f;
    for (int r = 0; r < M; ++r) {
        vfloat e = exp2(vfloat(p[lane + r * 32]) - simd_broadcast(top, r));
        p[lane + r * 32] = e;
        more = select(more, vfloat(simd_sum(e)), vint(lane) == r);
    }
    sum += more;
#ifdef V_GIVEN
    if (is_coded(x)) o.stored += more;
#endif
    SG_BARRIER;
}

// Columns 32 c .. 32 c + 31 of a tile's row to where they belong in out.
inline void put_row(dptr<OTYPE> out, sequence s, vlane lane, int row, int rows, int kv_heads, int h, int c, vfloat y) {
    int to = ((s.out + row / G) * kv_heads + h) * G + row % G;
    vint at = vint(lane) + 32 * c, d = MIX ? at : at % V_UNITS * V_PER + at / V_UNITS;
    if (row < rows) st(out + to * DV, d, y, first(lane, DV - 32 * c));
}

KERNEL prefill(dptr<const uint> records, dptr<const int> table, dptr<const int> sequences, dptr<const QTYPE> q,
               dptr<const KVTYPE> k_tail, dptr<const KVTYPE> v_tail, dptr<const KVTYPE> k, dptr<const KVTYPE> v,
#if SINKS
               dptr<const float> sinks,
#endif
#ifdef K_DECODED
               dptr<const float> tables,
#endif
#ifdef HELD
               dptr<const int> slots, dptr<const HTYPE> held,
#endif
               dptr<OTYPE> out, int kv_heads, int wide, int window, int tiles, int tokens, GRID) {
    sequence s = sequence_at(sequences, tg.z);
    int h = tg.y, rows = s.count * G, row0 = (tiles - 1 - tg.x) * (SGS * M);     // the tiles that see most come first
    if (row0 < rows) {
        int p0 = s.start + row0 / G, p1 = s.start + (min(row0 + SGS * M, rows) - 1) / G;
        int first_seen = max(0, p0 - window + 1), own = max(p0 / PAGE * PAGE, first_seen / BLOCK * BLOCK);
        int from = first_seen / BLOCK, stored = max(0, p1 / PAGE * BLOCKS - from);   // in blocks of tokens
        int visits = stored + (p1 - own) / 32 + 1;
        KEEP(outputs, o);
        KEEP(tile<M>, scores);
        KEEP(vfloat, top);
        KEEP(vfloat, sum);
        SIMDGROUPS {
            UNROLL for (int c = 0; c < V_WIDE / 32; ++c) fill(o[MINE].t[c], 0.0f);
#ifdef V_GIVEN
            o[MINE].stored = 0.0f;
#endif
            top[MINE] = LOWEST;
            sum[MINE] = 0.0f;
            int mine = row0 + sg * M;
#if SINKS
            top[MINE] = ld(sinks, (vint(lane) + mine) % G + h * G) * LOG2E;      // a token without a value
            sum[MINE] = 1.0f;
#endif
#if !Q_PACKED
            for (int r = 0; r < M; ++r)
                for (int d = 0; d < DK; d += 32) {
                    int n = mine + r < rows ? min(32, DK - d) : 0;
                    int at = ((s.row + (mine + r) / G) * kv_heads + h) * G + (mine + r) % G;
                    vfloat x = ld(q, lane + (n ? at * DK + d : 0), first(lane, n));
                    st(shared, lane + ((sg * M + r) * DK + d), x * (SCALE * LOG2E), first(lane, DK - d));
#if K_STAGES
                    st(shared, lane + (TILE + (sg * M + r) * DK + d), x * (SCALE * LOG2E), first(lane, DK - d));
#endif
                }
#if K_STAGES
            SG_BARRIER;
            for (int r = 0; r < M; ++r) rotate_key(shared + (TILE + (sg * M + r) * DK), lane);
#endif
#endif
        }
        tptr<float> kv = shared + AT_KV;
        dptr<const int> pages = table + tg.z * wide;
        for (int i = 0; i < visits; ++i) {
            visit x;
            x.page = -1;
            x.stride = kv_heads;
#ifdef K_DECODED
            x.tables = tables;
            x.room = shared + (AT_P + SGS * M * 32);
            x.h = h;
#endif
            x.rec = records;
            x.k = k;
            x.v = v;
            x.k2 = k + (s.row * kv_heads + h) * DK;       // the first new token
            x.v2 = v + (s.row * kv_heads + h) * DV;
#ifdef HELD
            x.slot = 0;
            x.held = held;
#endif
            if (i < stored) {
                x.base = (from + i) * BLOCK;
                x.n = x.split = BLOCK;
                x.page = x.base / PAGE;
                x.rec = records + record_at(pages[x.page], kv_heads, h);
#ifdef HELD
                x.slot = slots[tg.z * wide + x.page];
                x.held = held_at(held, x.slot, kv_heads, h);
#endif
            } else {
                x.base = own + (i - stored) * 32;
                x.n = min(32, p1 + 1 - x.base);
                x.split = x.base < s.start ? min(x.n, s.start - x.base) : x.n;       // of the tail, where it begins there
                int slot = (s.slot * PAGE + x.base % PAGE) * kv_heads + h, row = (s.row + x.base - s.start) * kv_heads + h;
                x.k = x.base < s.start ? k_tail + slot * DK : k + row * DK;
                x.v = x.base < s.start ? v_tail + slot * DV : v + row * DV;
            }
            int wide_n = x.page < 0 ? 32 : BLOCK;         // tokens of V that are there: zero from n on
            for (int c = 0; c < DK; c += KC) {
                TG_BARRIER;
                SIMDGROUPS {
                    take_k(x, kv, lane, sg, c);
                    if (ONE) take_v(x, kv + KV_V, lane, sg, 0, wide_n);
                }
                TG_BARRIER;
                SIMDGROUPS {
                    tptr<float> p = shared + (AT_P + sg * M * 32);
                    if (c == 0) fill(scores[MINE], 0.0f);
                    bool rotated = K_STAGES && x.page >= 0;
#if Q_PACKED
                    int at = ((h + (rotated ? kv_heads : 0)) * tokens + s.row) * G + row0 + sg * M;
                    mma(scores[MINE], q + (at * DK + c), DK, kv, KC, 32);
#else
                    mma(scores[MINE], shared + ((rotated ? TILE : 0) + sg * M * DK + c), DK, kv, KC, 32);
#endif
                    if (c + KC == DK) {
                        store(scores[MINE], p, 32);
                        SG_BARRIER;
                        soften(x, o[MINE], top[MINE], sum[MINE], p, lane, row0 + sg * M, s.start, window);
#if ONE
                        UNROLL for (int d = 0; d < V_WIDE / 32; ++d)
                            SEEN(x, d) mma(o[MINE].t[d], p, 32, kv + (KV_V + 32 * d), wide_n, V_WIDE);
#endif
                    }
                }
            }
#if !ONE
            for (int t = 0; t < wide_n; t += VT) {
                TG_BARRIER;
                SIMDGROUPS { take_v(x, kv, lane, sg, t, t + VT); }
                TG_BARRIER;
                SIMDGROUPS {
                    tptr<float> p = shared + (AT_P + sg * M * 32 + t);
                    UNROLL for (int d = 0; d < V_WIDE / 32; ++d)
                        SEEN(x, d) mma(o[MINE].t[d], p, 32, kv + 32 * d, VT, V_WIDE);
                }
            }
#endif
        }
        SIMDGROUPS {
            tptr<float> p = shared + (AT_P + sg * M * 32);
            vfloat f = select(vfloat(0.0f), 1.0f / max(sum[MINE], vfloat(1e-30f)), sum[MINE] > 0.0f);
#if V_STAGES
            numbers<DVP / 32, 1> rows_of[M];
#endif
#ifdef V_GIVEN
            numbers<DVP / 32, 1> more[M];
            given_rows(more, o[MINE], p, f, head_of(tables, h), lane);
#endif
            UNROLL for (int c = 0; c < DVP / 32; ++c) {
                scale_rows(o[MINE].t[c], f, lane);
                SG_BARRIER;
                store(o[MINE].t[c], p, 32);
                SG_BARRIER;
#if V_STAGES
                UNROLL for (int r = 0; r < M; ++r) rows_of[r].v[c][0] = p[lane + r * 32];
#else
                for (int r = 0; r < M; ++r) {
                    vfloat y = p[lane + r * 32];
                    put_row(out, s, lane, row0 + sg * M + r, rows, kv_heads, h, c, y);
                }
#endif
            }
#if V_STAGES
            UNROLL for (int r = 0; r < M; ++r) {          // the order of columns does not matter where all are rotated
                hadamard<V_STAGES>(rows_of[r], lane);
#ifdef V_GIVEN
                UNROLL for (int c = 0; c < DVP / 32; ++c) rows_of[r].v[c][0] += more[r].v[c][0];
#endif
                UNROLL for (int c = 0; c < DVP / 32; ++c)
                    put_row(out, s, lane, row0 + sg * M + r, rows, kv_heads, h, c, rows_of[r].v[c][0]);
            }
#endif
        }
    }
}
