// What a visit of prefill brings: K and V of 32 tokens, decoded, to threadgroup memory. After prefill's macros and `visit`.
// The K of one channel of a visit, to kv, where it is of the part that begins at channel `from`.
inline void put_channel(tptr<float> kv, vlane lane, int channel, int from, vfloat value) {
    int c = channel - from;
    if (c >= 0 && c < KC) kv[lane + c * 32] = value;
}
// Channels from .. from + KC of n plain tokens of K, `stride` KV heads apart, to the first `wide` columns of kv: zero beyond n.
inline void plain_k(dptr<const KVTYPE> k, int stride, int n, tptr<float> kv, vlane lane, int sg, int from, int wide) {
    for (int d = sg * 4; d < KC; d += SGS * 4) {
        vfloat4 k4 = ld4(k, vint(lane) * (stride * DK) + (from + d), first(lane, n));
        st(kv, lane + d * 32, k4.x, first(lane, wide));
        st(kv, lane + (d + 1) * 32, k4.y, first(lane, wide));
        st(kv, lane + (d + 2) * 32, k4.z, first(lane, wide));
        st(kv, lane + (d + 3) * 32, k4.w, first(lane, wide));
    }
}
// Whether it is of a page that is stored in codes.
inline bool is_coded(thread const visit& x) {
#ifdef HELD
    if (x.slot > 0) return false;
#endif
    return x.page >= 0;
}
#ifdef V_GIVEN
// Coefficients of block n of tokens from .. to, to the last columns of their rows. c: as k_coefficients made them.
inline void put_given(tptr<float> rows, tptr<float> c, vlane lane, int n, int used, int from, int to) {
    int wide = n + 1 == DK / K_BLOCK ? 32 * K_LINES - n * K_BLOCK : K_BLOCK;
    for (int t = from; t < to; ++t)
        for (int j = 0; j < wide; j += 32) {
            vfloat y = ld(c, vint(lane) * 32 + (32 * j + t), first(lane, used - j));
            st(rows, lane + ((t - from) * V_WIDE + DVP + n * K_BLOCK + j), y, first(lane, wide - j));
        }
}
// What the sums of coefficients say of V, to M rows of f times its columns. p: M * 32 floats.
inline void given_rows(thread numbers<DVP / 32, 1> (&rows)[M], thread outputs& o, tptr<float> p, vfloat f, dptr<const float> head, vlane lane) {
    tile<M> sums[DVP / 32];
    UNROLL for (int d = 0; d < DVP / 32; ++d) fill(sums[d], 0.0f);
    UNROLL for (int c = 0; c < K_LINES; ++c) {
        scale_rows(o.t[DVP / 32 + c], f, lane);
        SG_BARRIER;
        store(o.t[DVP / 32 + c], p, 32);
        SG_BARRIER;
        UNROLL for (int d = 0; d < DVP / 32; ++d)
            mma(sums[d], p, 32, head + (H_MAP + DV * DK + 32 * c * DV + 32 * d), 32 * c + 32 > DK ? DK - 32 * c : 32, DV);
    }
    SG_BARRIER;
    vfloat stored = o.stored * f;                         // times V's mean, as a product of matrices: the same sums for every row
    for (int r = 0; r < M; ++r) p[lane + r * 32] = select(vfloat(0.0f), vfloat(simd_broadcast(stored, r)), vint(lane) == 0);
    SG_BARRIER;
    UNROLL for (int d = 0; d < DVP / 32; ++d) mma(sums[d], p, 32, head + (H_MEAN_V + 32 * d), 8, DV);
    UNROLL for (int d = 0; d < DVP / 32; ++d) {
        SG_BARRIER;
        store(sums[d], p, 32);
        SG_BARRIER;
        UNROLL for (int r = 0; r < M; ++r) rows[r].v[d][0] = p[lane + r * 32];
    }
    SG_BARRIER;
}
#endif
// Channels from .. from + KC of K, to kv.
inline void take_k(thread const visit& x, tptr<float> kv, vlane lane, int sg, int from) {
    if (x.page >= 0) {
        int t = x.base % PAGE;
#ifdef HELD
        if (x.slot > 0) {
            for (int d = sg; d < KC; d += SGS) kv[lane + d * 32] = held_k(x.held, lane, from + d, t);
            return;
        }
#endif
#ifdef K_DECODED
        dptr<const float> head = head_of(x.tables, x.h);
        tptr<float> room = x.room + sg % K_TEAMS * (K_SCRATCH + K_STAGED), rows = room + 32 * K_BLOCK;
        if (sg < K_TEAMS) {
            vuint byte = k_gains(x.rec, lane, t);
            vfloat gain = gain_of(byte), like = like_first(byte);
            bool any = simd_any(like > 0.0f);
            K_WORDS words = k_near(x.rec, rows + 32 * K_ROWS, lane, t);
            for (int n = sg; n < DK / K_BLOCK; n += K_TEAMS) {
                int used = k_coefficients(room, head, words, lane, gain, n);
#if ONE && defined(V_GIVEN)
                put_given(kv + KV_V, room, lane, n, used, 0, BLOCK);
#endif
                for (int m = 0; m < K_BLOCK; m += K_ROWS) {
                    k_rows(rows, room, head, n, m, used);
                    for (int i = 0; i < K_ROWS; i += 2) {
                        int p = n * K_BLOCK + m + i, number = x.base / PAGE;
                        angle a = angle_of(x.tables, lane, x.stride, number, t, p / 2);
                        pair k = k_turned(rows, head, lane, i, p, a, like, any);
                        put_channel(kv, lane, int(x.tables[p]), from, k.x);
                        put_channel(kv, lane, int(x.tables[p + 1]), from, k.y);
                    }
                    SG_BARRIER;
                }
            }
        }
#else
#if K_HIGH
        for (int w = sg; w < K_HIGH / 2; w += SGS) {
            vuint pair = ld(x.rec, lane + (AT_HIGH + w * PAGE + t), first(lane, BLOCK));
            put_channel(kv, lane, K_ORDER(x.rec, 2 * w), from, half_lo(pair));
            put_channel(kv, lane, K_ORDER(x.rec, 2 * w + 1), from, half_hi(pair));
        }
#endif
#ifdef K_TOKEN
        vfloat unit = k_scale(x.rec, lane, t);
#endif
        int begin = K_HIGH ? 0 : from / K_PER, end = K_HIGH ? (DK - K_HIGH) / K_PER : (from + KC) / K_PER;
        for (int g = begin + sg; g < end; g += SGS) {
            vuint w[K_LOADS];
            UNROLL for (int i = 0; i < K_LOADS; ++i)
                w[i] = ld(x.rec, lane + (AT_K + (g * K_LOADS + i) * PAGE + t), first(lane, BLOCK));
            UNROLL for (int j = 0; j < K_PER; ++j) {
                int place = K_HIGH + g * K_PER + j;
                vfloat value = K_VALUE(x.rec, K_CODE(w, j), place, j, unit);
                put_channel(kv, lane, K_ORDER(x.rec, place), from, value);
            }
        }
#endif
    } else {
        plain_k(x.k, x.stride, x.split, kv, lane, sg, from, 32);
        int rest = x.n - x.split;
        if (rest > 0) {
            SG_BARRIER;
            plain_k(x.k2, x.stride, rest, kv + x.split, lane, sg, from, rest);
        }
    }
}
// A token's V to its row.
inline void put_token(thread const token& y, tptr<float> row, vlane lane) {
    UNROLL for (int i = 0; i < V_COLUMNS; ++i)
        UNROLL for (int j = 0; j < V_PER; ++j) {
#if MIX
            st(row, spread<32, 0, V_PER>(lane) + (32 * i * V_PER + j), y.v[i][j], first(lane, V_UNITS - 32 * i));
#else
            st(row, lane + (j * V_UNITS + 32 * i), y.v[i][j], first(lane, V_UNITS - 32 * i));
#endif
        }
    if (DVP > DV) st(row, lane + DV, vfloat(0.0f), first(lane, DVP - DV));
}
// Tokens from .. to of V, to kv.
inline void take_v(thread const visit& x, tptr<float> kv, vlane lane, int sg, int from, int to) {
#if !ONE && defined(V_GIVEN)
    if (is_coded(x) && sg < K_TEAMS) {
        dptr<const float> head = head_of(x.tables, x.h);
        tptr<float> room = x.room + sg * (K_SCRATCH + K_STAGED);
        int t = x.base % PAGE;
        vfloat gain = gain_of(k_gains(x.rec, lane, t));
        K_WORDS words = k_near(x.rec, room + K_SCRATCH, lane, t);
        for (int n = sg; n < DK / K_BLOCK; n += K_TEAMS) {
            int used = k_coefficients(room, head, words, lane, gain, n);
            put_given(kv, room, lane, n, used, from, to);
            SG_BARRIER;
        }
    }
#endif
#if V_DEEP > 1
    if (is_coded(x)) {
        for (int t = from / V_DEEP * V_DEEP + sg * V_DEEP; t < to; t += SGS * V_DEEP) {      // tokens that share words
            token y[V_DEEP];
            UNROLL for (int i = 0; i < V_COLUMNS; ++i) {
                vuint w[V_LOADS];
                int at = AT_V + (x.base % PAGE + t) / V_DEEP * (V_LOADS * DV) + 32 * i;
                UNROLL for (int n = 0; n < V_LOADS; ++n) w[n] = ld(x.rec, lane + (at + n * DV), first(lane, DV - 32 * i));
                UNROLL for (int j = 0; j < V_DEEP; ++j) y[j].v[i][0] = V_VALUE(x.rec, V_CODE(w, j), x.base % PAGE + t + j, j);
            }
            UNROLL for (int j = 0; j < V_DEEP; ++j)
                if (t + j >= from && t + j < to) put_token(y[j], kv + (t + j - from) * V_WIDE, lane);
        }
        return;
    }
#endif
    for (int t = from + sg; t < to; t += SGS) {
        token y;
        int own = x.base % PAGE + t;
#ifdef HELD
        if (x.slot > 0) {
            UNROLL for (int i = 0; i < V_COLUMNS; ++i)
                UNROLL for (int j = 0; j < V_PER; ++j) y.v[i][j] = held_v(x.held, lane, own, i, j);
        } else
#endif
#if V_DEEP == 1
        if (x.page >= 0) {
            UNROLL for (int i = 0; i < V_COLUMNS; ++i) {
                vuint w[V_LOADS];
#if V_LOADS == 1
                w[0] = ld(x.rec, lane + (AT_V + own * V_UNITS + 32 * i), first(lane, V_UNITS - 32 * i));
#else
                vint unit = vint(lane) + (own * V_UNITS + 32 * i), at = unit / 32 * (32 * V_LOADS) + unit % 32;
                UNROLL for (int n = 0; n < V_LOADS; ++n)
                    w[n] = ld(x.rec, at + (AT_V + 32 * n), first(lane, V_UNITS - 32 * i));
#endif
                UNROLL for (int j = 0; j < V_PER; ++j) y.v[i][j] = V_VALUE(x.rec, V_CODE(w, j), own, j);
            }
#ifdef V_FIRST
            if (is_like_first(x.rec, own)) v_first(y, head_of(x.tables, x.h), lane, 1.0f);
#endif
        } else
#endif
        {
            dptr<const KVTYPE> v = (t < x.split ? x.v : x.v2) + (t < x.split ? t : t - x.split) * (x.stride * DV);
            int units = t < x.n ? V_UNITS : 0;
            UNROLL for (int i = 0; i < V_COLUMNS; ++i)
                UNROLL for (int j = 0; j < V_PER; ++j)
                    y.v[i][j] = vfloat(ld(v, spread<32, 0, V_PER>(lane) + (32 * i * V_PER + j), first(lane, units - 32 * i)));
#if V_STAGES
            hadamard<V_STAGES>(y, lane);
#endif
        }
        put_token(y, kv + (t - from) * V_WIDE, lane);
    }
}
