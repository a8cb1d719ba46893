// Paged decode attention: up to NT new tokens of a sequence, GR query heads of one KV head, over a part of its pages.
// Built with the headers of a page format, then QTYPE, KVTYPE, G (query heads a KV head), GR (of them here), NT, SGS;
// SCALE; SINKS, SPLIT (0 or 1); VJ (numbers of a group of V that are summed at once; where V is deep, columns), V_PERIOD (lcm
// of 32 and V_UNITS, or the columns' lanes), MEMORY (floats of threadgroup memory of a SIMD-group; STAGE of them for attend_staged.h); K_INT8, V_INT8 (0 or 1:
// products of codes are those of integers). A token attends to earlier pages as stored, and to its own
// page's plain tokens exactly.
//   SPLIT 0   one unit owns all pages and writes out[row][head]
//   SPLIT 1   `units` units share them, `least` for each at least, and unit u writes part[u] and lse[u] (log2-sum-exp) of its
//             row, for merge
// A unit is a SIMD-group. Grid: x units / SGS, y KV heads * (G / GR) * blocks of NT tokens, z sequences.
#define ROWS (NT * GR)                                    // query rows: token r / GR, head r % GR
#ifndef K_HIGH                                            // channels of K that are halves, before the codes
#define K_HIGH 0
#endif
#define K_GROUPS ((DK - K_HIGH) / K_PER)
#if V_DEEP > 1                                            // lines are of channels: lanes behind a short head's last have nothing
#define TOKENS 1
#else
#define TOKENS (V_PERIOD / V_UNITS)                       // the fewest tokens whose groups of V fill lines of 32
#endif
#define LINES (V_PERIOD / 32)
#define LOWEST -1e30f                                     // below any score, and finite
#if K_PAGE || defined(K_MEAN)                             // what every score of a page gets more
#define K_BIAS
#endif
#ifndef S_UNIT
#define S_UNIT 1.0f
#endif
#ifndef P_UNIT
#define P_UNIT 1.0f
#endif
#ifndef V_UNIT
#define V_UNIT(j) 1.0f
#endif
#ifndef V_PLACES
#define V_PLACES 1.0f
#endif
#define QUERY (ROWS * DK)                                 // floats of q, as it is
#define WIDE (32 * BLOCKS)                                // probabilities of a row
#define CODES (K_PAGE ? QUERY : 0)                        // and in units of a page's codes

// Codes of V less their middle, which the offset has; where lanes behind a short row are summed, too, they have to be zero.
#if STAGED && !V_INT8 && defined(V_MIDDLE) && TOKENS == 1
#define CENTRED 1
#define V_NUMBER(w, j) V_CENTRED(V_CODE(w, j), j)
#else
#define CENTRED 0
#define V_NUMBER(w, j) V_CODE(w, j)
#endif

#include "softmax.h"
#include "attend_values.h"
#include "attend_plain.h"
#if STAGED && ROWS > 2                                    // sums of fewer rows stay in registers as it is
#include "attend_staged.h"
#endif
#if K_INT8 || V_INT8
#include "attend_int8.h"
#endif
#ifdef HELD
#include "held_page.h"
#endif
#ifdef V_GIVEN
#include "attend_given.h"
#endif
#include "attend_page.h"

// From plain tokens to stored pages: q and the sums over V as these have them.
APART void enter_pages(thread state& a, tptr<float> qs, tptr<float> digits, vlane lane) {
#if K_STAGES
    UNROLL for (int r = 0; r < ROWS; ++r) rotate_key(qs + r * DK, lane);
#endif
#ifdef K_UNIT
    for (int i = 0; i < QUERY; i += 32) {
        vfloat x = ld(qs, lane + i, first(lane, QUERY - i));
        st(qs, lane + i, x * K_UNIT, first(lane, QUERY - i));
    }
#endif
    SG_BARRIER;
#if K_INT8 && !K_PAGE
    split_rows(qs, digits, lane);
    SG_BARRIER;
#endif
#if V_STAGES
    UNROLL for (int r = 0; r < ROWS; ++r) {
        token x;
        UNROLL for (int i = 0; i < V_COLUMNS; ++i) UNROLL for (int j = 0; j < V_PER; ++j) x.v[i][j] = a.acc[r][i][j];
        hadamard<V_STAGES>(x, lane);
        UNROLL for (int i = 0; i < V_COLUMNS; ++i) UNROLL for (int j = 0; j < V_PER; ++j) a.acc[r][i][j] = x.v[i][j];
    }
#endif
}

// y[0 .. DV) of one row: its sums over V, times f, and more. buffer: LINES * V_PER * 32 floats.
template <typename Y> APART void write_row(Y y, thread const state& a, int r, tptr<float> buffer, vlane lane, float f,
#ifdef V_GIVEN
                                           dptr<const float> head,
#endif
                                           float more) {
    token x;
#if TOKENS == 1
    UNROLL for (int i = 0; i < V_COLUMNS; ++i) UNROLL for (int j = 0; j < V_PER; ++j) x.v[i][j] = a.acc[r][i][j];
#else
    UNROLL for (int j = 0; j < V_PER; ++j)
        UNROLL for (int i = 0; i < LINES; ++i) buffer[lane + (j * LINES + i) * 32] = a.acc[r][i][j];
    SG_BARRIER;
    UNROLL for (int j = 0; j < V_PER; ++j)
        UNROLL for (int i = 0; i < V_COLUMNS; ++i) {
            x.v[i][j] = 0.0f;
            for (int t = 0; t < TOKENS; ++t)
                x.v[i][j] += ld(buffer, lane + (j * LINES * 32 + t * V_UNITS + 32 * i), first(lane, V_UNITS - 32 * i));
        }
    SG_BARRIER;
#endif
    UNROLL for (int i = 0; i < V_COLUMNS; ++i)
        UNROLL for (int j = 0; j < V_PER; ++j) x.v[i][j] = (x.v[i][j] * V_UNIT(j) + more) * f;
#if V_STAGES
    hadamard<V_STAGES>(x, lane);
#endif
#ifdef V_GIVEN
    add_given(x, a, r, head, buffer, lane, f);
#endif
    UNROLL for (int i = 0; i < V_COLUMNS; ++i)
        UNROLL for (int j = 0; j < V_PER; ++j)
            st(y, spread<32, 0, V_PER>(lane) + (32 * i * V_PER + j), x.v[i][j], first(lane, V_UNITS - 32 * i));
}

KERNEL attend(dptr<const uint> records, dptr<const int> table, dptr<const int> sequences, dptr<const QTYPE> q,
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
#if SPLIT
              dptr<float> part, dptr<float> lse,
#else
              dptr<QTYPE> out,
#endif
              int kv_heads, int wide, int window, int least, int units, GRID) {
    sequence s = sequence_at(sequences, tg.z);
    int blocks = kv_heads * (G / GR), token0 = tg.y / blocks * NT, tokens = min(NT, s.count - token0);
    place at;
    at.h = tg.y % blocks / (G / GR);
    at.head = tg.y % blocks * GR;
    at.p0 = s.start + token0;
    at.p1 = at.p0 + tokens - 1;
    at.window = window;
    int low = max(0, at.p0 - window + 1) / PAGE, high = at.p1 / PAGE;            // stored pages that these tokens see
    SIMDGROUPS {
        int unit = tg.x * SGS + sg, per = max(least, (high - low + units - 1) / units);
        int from = low + unit * per, to = min(from + per, high);
        bool last = high > low ? from < high && to == high : unit == 0;       // owns the plain tokens
        if (tokens > 0 && unit < units) {
            tptr<float> qs = shared + sg * MEMORY, ps = qs + (QUERY + CODES);
            state b;                                      // for functions that stand apart: a stays in registers
            UNROLL for (int r = 0; r < ROWS; ++r) {
                b.m[r] = LOWEST;
                b.l[r] = 0.0f;
#ifdef V_OFFSET
                b.offset[r] = 0.0f;
#endif
#ifdef V_GIVEN
                b.stored[r] = 0.0f;
                UNROLL for (int c = 0; c < K_LINES; ++c) b.given[r][c] = 0.0f;
#endif
                UNROLL for (int i = 0; i < LINES; ++i) UNROLL for (int j = 0; j < V_PER; ++j) b.acc[r][i][j] = 0.0f;
                int row = (s.row + token0 + min(r / GR, tokens - 1)) * (kv_heads * G) + at.head + r % GR;
                for (int d = 0; d < DK; d += 32) {
                    vfloat x = vfloat(ld(q, lane + (row * DK + d), first(lane, DK - d))) * (SCALE * LOG2E);
                    st(qs, lane + (r * DK + d), x, first(lane, DK - d));
                }
#if SINKS
                if (last) {                               // a sink is a token without a value
                    b.m[r] = sinks[at.head + r % GR] * LOG2E;
                    b.l[r] = select(vfloat(0.0f), vfloat(1.0f), vint(lane) == 0);
                }
#endif
            }
            SG_BARRIER;
            if (last) {
                int own = max(at.p0 / PAGE * PAGE, at.p0 - window + 1);          // the first plain token that these see
                for (int p = own; p < s.start; p += 32) {
                    int row = (s.slot * PAGE + p % PAGE) * kv_heads + at.h;
                    plain_tokens(b, k_tail + row * DK, v_tail + row * DV, qs, ps, lane, at, p, min(32, s.start - p), kv_heads);
                }
                for (int p = max(own, s.start); p <= at.p1; p += 32) {
                    int row = (s.row + p - s.start) * kv_heads + at.h;
                    plain_tokens(b, k + row * DK, v + row * DV, qs, ps, lane, at, p, min(32, at.p1 + 1 - p), kv_heads);
                }
            }
            enter_pages(b, qs, ps + ROWS * WIDE, lane);
            state a = b;
            dptr<const int> pages = table + tg.z * wide;
            dptr<const uint> rec = records;
            if (from < to) rec = records + record_at(pages[from], kv_heads, at.h);
            for (int page = from; page < to; ++page) {
                dptr<const uint> next = rec;
                if (page + 1 < to) next = records + record_at(pages[page + 1], kv_heads, at.h);
#ifdef HELD
                int slot = slots[tg.z * wide + page];
                if (slot > 0) held_page(a, held_at(held, slot, kv_heads, at.h), qs, ps, lane, at, page);
                else
#endif
#ifdef K_DECODED
                stored_page(a, rec, next, qs, ps, tables, kv_heads, lane, at, page);
#else
                stored_page(a, rec, next, qs, ps, lane, at, page);
#endif
                rec = next;
            }
            b = a;
            UNROLL for (int r = 0; r < ROWS; ++r) {
                float sum = simd_sum(b.l[r]), f = sum == 0.0f ? 0.0f : 1.0f / sum;
#ifdef V_OFFSET
                float more = simd_sum(b.offset[r]);
#else
                float more = 0.0f;
#endif
#ifdef V_GIVEN
#define MORE head_of(tables, at.h), more
#else
#define MORE more
#endif
                if (r / GR < tokens) {
                    int row = (s.out + token0 + r / GR) * (kv_heads * G) + at.head + r % GR;
#if SPLIT
                    write_row(part + long(row * units + unit) * DV, b, r, qs, lane, f, MORE);
                    st(lse, lane + (row * units + unit), vfloat(sum > 0.0f ? b.m[r] + log2(sum) : -INFINITY), first(lane, 1));
#else
                    write_row(out + row * DV, b, r, qs, lane, f, MORE);
#endif
                }
            }
        }
    }
}
