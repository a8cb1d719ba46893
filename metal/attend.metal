// Paged decode attention: up to NT new tokens of a sequence, GR query heads of one KV head, over a part of its pages.
// Built with a header of formats/, then QTYPE, KVTYPE, G (query heads a KV head), GR (of them here), NT, SGS;
// SCALE; SINKS, SPLIT (0 or 1); VJ (values of a word of V that are summed at once), V_PERIOD (lcm of 32 and V_WORDS),
// MEMORY (floats of threadgroup memory of a SIMD-group). A token attends to earlier pages as stored, and to its own
// page's plain tokens exactly.
//   SPLIT 0   one unit owns all pages and writes out[row][head]
//   SPLIT 1   unit u owns `per` pages and writes part[u] and lse[u] (log2-sum-exp) of its row, for merge
// A unit is a SIMD-group. Grid: x units / SGS, y KV heads * (G / GR) * blocks of NT tokens, z sequences.
#define ROWS (NT * GR)                                    // query rows: token r / GR, head r % GR
#define K_WORDS (DK / K_PER)
#define TOKENS (V_PERIOD / V_WORDS)                       // the fewest tokens whose words of V fill lines of 32
#define LINES (V_PERIOD / 32)
#define LOWEST -1e30f                                     // below any score, and finite
#if defined(K_UNIT) || defined(K_PAGE)                    // q is kept in units of the codes as well
#define CODED 1
#else
#define CODED 0
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
#define QUERY (ROWS * DK)                                 // floats of q, as it is
#define WIDE (32 * BLOCKS)                                // probabilities of a row
#define CODES (CODED ? QUERY : 0)                         // and in units of the codes

struct state {                                            // of the softmax so far
    vfloat acc[ROWS][LINES][V_PER], l[ROWS];
#ifdef V_TOKEN
    vfloat zero[ROWS];
#endif
    float m[ROWS];
};
struct scores { vfloat s[ROWS][BLOCKS]; };
// Where a SIMD-group stands: position of its first and last token, first position of the window of the first.
struct place { int h, head, p0, p1, window; };

// s[lane] stays where first[r] <= lane < last[r]: block b starts at position `base`.
inline void mask(thread scores& x, int b, vlane lane, int base, int from, int to, int r) {
    x.s[r][b] = select(vfloat(-INFINITY), x.s[r][b], vint(lane) >= max(0, from - base) && vint(lane) < to - base);
}
// Scores to probabilities, in ps[r][WIDE], and into the sums. `used`: blocks of x.
inline void soften(thread state& a, thread scores& x, tptr<float> ps, vlane lane, int used) {
    UNROLL for (int r = 0; r < ROWS; ++r) {
        vfloat high = x.s[r][0];
        UNROLL for (int b = 1; b < BLOCKS; ++b) if (b < used) high = max(high, x.s[r][b]);
        float top = simd_max(high);
        if (top > a.m[r]) {                               // a new maximum rescales what is summed
            float f = exp2(a.m[r] - top);
            a.m[r] = top;
            a.l[r] = a.l[r] * f;
#ifdef V_TOKEN
            a.zero[r] = a.zero[r] * f;
#endif
            UNROLL for (int i = 0; i < LINES; ++i)
                UNROLL for (int j = 0; j < V_PER; ++j) a.acc[r][i][j] = a.acc[r][i][j] * f;
        }
        UNROLL for (int b = 0; b < BLOCKS; ++b) if (b < used) {
            x.s[r][b] = exp2(x.s[r][b] - a.m[r]);
            a.l[r] += x.s[r][b];
            ps[lane + (r * WIDE + 32 * b)] = x.s[r][b] * P_UNIT;
        }
    }
}

// One stored page, while the next one is fetched.
inline void stored_page(thread state& a, dptr<const uint> rec, dptr<const uint> next, tptr<float> qs, tptr<float> ps,
                        vlane lane, place at, int page) {
    scores x;
    UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int b = 0; b < BLOCKS; ++b) x.s[r][b] = 0.0f;
#ifdef K_PAGE
    vfloat bias[ROWS];
    UNROLL for (int r = 0; r < ROWS; ++r) bias[r] = 0.0f;
    for (int d = 0; d < DK; d += 32) {
        vuint factors = k_factors(rec, lane, d);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            vfloat x = ld(qs, lane + (r * DK + d), first(lane, DK - d));
            st(qs, lane + (QUERY + r * DK + d), k_query(x, factors, bias[r], lane), first(lane, DK - d));
        }
    }
    SG_BARRIER;
#endif
    tptr<float> codes = qs + CODES;
    for (int w = 0; w < K_WORDS; ++w) {
        vuint k[BLOCKS];
        prefetch(next + (AT_K + w * PAGE), PAGE);
        UNROLL for (int b = 0; b < BLOCKS; ++b) k[b] = ld(rec, lane + (AT_K + w * PAGE + 32 * b), first(lane, BLOCK));
        UNROLL for (int j = 0; j < K_PER; ++j) {
            vfloat code[BLOCKS];
            UNROLL for (int b = 0; b < BLOCKS; ++b) code[b] = K_CODE(k[b], j);
            UNROLL for (int r = 0; r < ROWS; ++r) {
                float q = codes[r * DK + w * K_PER + j];
                UNROLL for (int b = 0; b < BLOCKS; ++b) x.s[r][b] += code[b] * q;
            }
        }
    }
    bool edge = BLOCK < 32 || page * PAGE <= at.p1 - at.window || (page + 1) * PAGE > at.p0;
    UNROLL for (int r = 0; r < ROWS; ++r) {
        int p = at.p0 + r / GR, end = p / PAGE > page ? (page + 1) * PAGE : 0;
#ifdef K_PAGE
        float more = simd_sum(bias[r]);
#else
        float more = 0.0f;
#endif
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
            x.s[r][b] = x.s[r][b] * S_UNIT + more;
            if (edge) mask(x, b, lane, page * PAGE + 32 * b, p - at.window + 1, end, r);
        }
    }
    soften(a, x, ps, lane, BLOCKS);
#ifdef V_TOKEN
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        vuint factors = v_factors(rec, lane, 32 * b);
        vfloat scale = v_scale(factors), zero = v_zero(factors);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            a.zero[r] += x.s[r][b] * zero;
            x.s[r][b] = x.s[r][b] * scale;
            ps[lane + (r * WIDE + 32 * b)] = x.s[r][b] * P_UNIT;
        }
    }
#endif
    SG_BARRIER;
    UNROLL for (int i = 0; i < LINES; ++i)
        UNROLL for (int j0 = 0; j0 < V_PER; j0 += VJ) {   // so many of a word's values that the sums stay in registers
            vfloat sums[ROWS][VJ];
            UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int j = 0; j < VJ; ++j) sums[r][j] = a.acc[r][i][j0 + j];
#if TOKENS == 1
            for (int t = 0; t < PAGE; ++t) {
                vuint v = rec[lane + (AT_V + t * V_WORDS + 32 * i)];
                prefetch(next + (AT_V + t * V_WORDS + 32 * i), 32);
                vfloat code[VJ];
                UNROLL for (int j = 0; j < VJ; ++j) code[j] = V_CODE(v, j0 + j);
                UNROLL for (int r = 0; r < ROWS; ++r) {
                    float p = ps[r * WIDE + t];
                    UNROLL for (int j = 0; j < VJ; ++j) sums[r][j] += code[j] * p;
                }
            }
#else
            vint own = (vint(lane) + 32 * i) / V_WORDS;   // the token of these, whose words this lane has
            for (int b = 0; b < BLOCKS; ++b) {
                vfloat weights[ROWS];
                UNROLL for (int r = 0; r < ROWS; ++r) weights[r] = ps[lane + (r * WIDE + 32 * b)];
                for (int t = 0; t < BLOCK; t += TOKENS) {
                    vuint v = rec[lane + (AT_V + (32 * b + t) * V_WORDS + 32 * i)];
                    prefetch(next + (AT_V + (32 * b + t) * V_WORDS + 32 * i), 32);
                    vfloat code[VJ];
                    UNROLL for (int j = 0; j < VJ; ++j) code[j] = V_CODE(v, j0 + j);
                    UNROLL for (int r = 0; r < ROWS; ++r) {
                        vfloat p = simd_shuffle(weights[r], own + vint(t));
                        UNROLL for (int j = 0; j < VJ; ++j) sums[r][j] += code[j] * p;
                    }
                }
            }
#endif
            UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int j = 0; j < VJ; ++j) a.acc[r][i][j0 + j] = sums[r][j];
        }
    SG_BARRIER;
}

// n plain tokens (32 at most) from position `base` on, in consecutive rows of k and v that are `stride` KV heads apart.
inline void plain_tokens(thread state& a, dptr<const KVTYPE> k, dptr<const KVTYPE> v, tptr<float> qs, tptr<float> ps,
                         vlane lane, place at, int base, int n, int kv_heads) {
    scores x;
    UNROLL for (int r = 0; r < ROWS; ++r) x.s[r][0] = 0.0f;
    for (int d = 0; d < DK; d += 4) {
        vfloat4 k4 = ld4(k, vint(lane) * (kv_heads * DK) + d, first(lane, n));
        UNROLL for (int r = 0; r < ROWS; ++r)
            x.s[r][0] += k4.x * qs[r * DK + d] + k4.y * qs[r * DK + d + 1] + k4.z * qs[r * DK + d + 2]
                + k4.w * qs[r * DK + d + 3];
    }
    UNROLL for (int r = 0; r < ROWS; ++r) {
        int p = at.p0 + r / GR;
        mask(x, 0, lane, base, max(p - at.window + 1, p / PAGE * PAGE), min(base + n, p + 1), r);
    }
    soften(a, x, ps, lane, 1);
    SG_BARRIER;
    UNROLL for (int i = 0; i < V_COLUMNS; ++i)            // the first token's words of LINES lines hold them
        UNROLL for (int j = 0; j < V_PER; ++j) {
            vfloat sums[ROWS];
            UNROLL for (int r = 0; r < ROWS; ++r) sums[r] = 0.0f;
            for (int t = 0; t < n; ++t) {
                vfloat c = ld(v, spread<32, 0, V_PER>(lane) + (t * kv_heads * DV + 32 * i * V_PER + j),
                              first(lane, V_WORDS - 32 * i));
                UNROLL for (int r = 0; r < ROWS; ++r) sums[r] += c * ps[r * WIDE + t];
            }
            UNROLL for (int r = 0; r < ROWS; ++r) a.acc[r][i][j] += sums[r] * (1.0f / (V_UNIT(j) * P_UNIT));
        }
    SG_BARRIER;
}

// y[0 .. DV) of one row: its sums over V, times f, and more. buffer: LINES * V_PER * 32 floats.
template <typename Y> inline void write_row(Y y, thread const state& a, int r, tptr<float> buffer, vlane lane, float f,
                                            float more) {
#if TOKENS == 1
    UNROLL for (int i = 0; i < LINES; ++i)
        UNROLL for (int j = 0; j < V_PER; ++j)
            st(y, spread<32, 0, V_PER>(lane) + (32 * i * V_PER + j), (a.acc[r][i][j] * V_UNIT(j) + more) * f,
               first(lane, 32));
#else
    UNROLL for (int j = 0; j < V_PER; ++j)
        UNROLL for (int i = 0; i < LINES; ++i) buffer[lane + (j * LINES + i) * 32] = a.acc[r][i][j];
    SG_BARRIER;
    UNROLL for (int j = 0; j < V_PER; ++j)
        UNROLL for (int i = 0; i < V_COLUMNS; ++i) {
            vfloat sum = 0.0f;
            for (int t = 0; t < TOKENS; ++t)
                sum += ld(buffer, lane + (j * LINES * 32 + t * V_WORDS + 32 * i), first(lane, V_WORDS - 32 * i));
            st(y, spread<32, 0, V_PER>(lane) + (32 * i * V_PER + j), (sum * V_UNIT(j) + more) * f,
               first(lane, V_WORDS - 32 * i));
        }
    SG_BARRIER;
#endif
}

KERNEL attend(dptr<const uint> records, dptr<const int> table, dptr<const int> sequences, dptr<const QTYPE> q,
              dptr<const KVTYPE> k_tail, dptr<const KVTYPE> v_tail, dptr<const KVTYPE> k, dptr<const KVTYPE> v,
#if SINKS
              dptr<const float> sinks,
#endif
#if SPLIT
              dptr<float> part, dptr<float> lse,
#else
              dptr<QTYPE> out,
#endif
              int kv_heads, int wide, int window, int per, int units, GRID) {
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
        int unit = tg.x * SGS + sg, from = low + unit * per, to = min(from + per, high);
        bool last = high > low ? from < high && to == high : unit == 0;       // owns the plain tokens
        if (tokens > 0 && unit < units) {
            tptr<float> qs = shared + sg * MEMORY, ps = qs + (QUERY + CODES);
            state a;
            UNROLL for (int r = 0; r < ROWS; ++r) {
                a.m[r] = LOWEST;
                a.l[r] = 0.0f;
#ifdef V_TOKEN
                a.zero[r] = 0.0f;
#endif
                UNROLL for (int i = 0; i < LINES; ++i) UNROLL for (int j = 0; j < V_PER; ++j) a.acc[r][i][j] = 0.0f;
                int row = (s.row + token0 + min(r / GR, tokens - 1)) * (kv_heads * G) + at.head + r % GR;
                for (int d = 0; d < DK; d += 32) {
                    vfloat x = vfloat(ld(q, lane + (row * DK + d), first(lane, DK - d))) * (SCALE * LOG2E);
                    st(qs, lane + (r * DK + d), x, first(lane, DK - d));
                }
#if SINKS
                if (last) {                               // a sink is a token without a value
                    a.m[r] = sinks[at.head + r % GR] * LOG2E;
                    a.l[r] = select(vfloat(0.0f), vfloat(1.0f), vint(lane) == 0);
                }
#endif
            }
            SG_BARRIER;
            if (last) {
                int own = max(at.p0 / PAGE * PAGE, at.p0 - window + 1);          // the first plain token that these see
                for (int p = own; p < s.start; p += 32) {
                    int row = (s.slot * PAGE + p % PAGE) * kv_heads + at.h;
                    plain_tokens(a, k_tail + row * DK, v_tail + row * DV, qs, ps, lane, at, p, min(32, s.start - p),
                                 kv_heads);
                }
                for (int p = max(own, s.start); p <= at.p1; p += 32) {
                    int row = (s.row + p - s.start) * kv_heads + at.h;
                    plain_tokens(a, k + row * DK, v + row * DV, qs, ps, lane, at, p, min(32, at.p1 + 1 - p), kv_heads);
                }
            }
#if CODED
#ifndef K_PAGE
            for (int i = 0; i < QUERY; i += 32) {
                vfloat x = ld(qs, lane + i, first(lane, QUERY - i));
                st(qs, lane + (QUERY + i), x * K_UNIT, first(lane, QUERY - i));
            }
            SG_BARRIER;
#endif
#endif
            dptr<const int> pages = table + tg.z * wide;
            dptr<const uint> rec = records;
            if (from < to) rec = records + record_at(pages[from], kv_heads, at.h);
            for (int page = from; page < to; ++page) {
                dptr<const uint> next = rec;
                if (page + 1 < to) next = records + record_at(pages[page + 1], kv_heads, at.h);
                stored_page(a, rec, next, qs, ps, lane, at, page);
                rec = next;
            }
            UNROLL for (int r = 0; r < ROWS; ++r) {
                float sum = simd_sum(a.l[r]), f = sum > 0.0f ? 1.0f / sum : 0.0f;
#ifdef V_TOKEN
                float more = simd_sum(a.zero[r]);
#else
                float more = 0.0f;
#endif
                if (r / GR < tokens) {
                    int row = (s.out + token0 + r / GR) * (kv_heads * G) + at.head + r % GR;
#if SPLIT
                    write_row(part + long(row * units + unit) * DV, a, r, qs, lane, f, more);
                    st(lse, lane + (row * units + unit), vfloat(sum > 0.0f ? a.m[r] + log2(sum) : -INFINITY),
                       first(lane, 1));
#else
                    write_row(out + row * DV, a, r, qs, lane, f, more);
#endif
                }
            }
        }
    }
}
