// attend over one stored page, while the next one is fetched. After the headers that its macros ask for.
inline void stored_page(thread state& a, dptr<const uint> rec, dptr<const uint> next, tptr<float> qs, tptr<float> ps,
#ifdef K_DECODED
                        dptr<const float> tables, int kv_heads,
#endif
                        vlane lane, place at, int page) {
    scores x;
    UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int b = 0; b < BLOCKS; ++b) x.s[r][b] = 0.0f;
#ifdef K_BIAS
    vfloat bias[ROWS];                                    // its lanes are summed
    UNROLL for (int r = 0; r < ROWS; ++r) bias[r] = 0.0f;
#endif
#if K_PAGE
    for (int d = 0; d < DK; d += 32) {
        K_FACTORS factors = k_factors(rec, lane, d);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            vfloat q = k_query(factors, qs + r * DK, d, bias[r], lane);
            st(qs, lane + (QUERY + r * DK + d), q, first(lane, DK - d));
        }
    }
    SG_BARRIER;
#endif
#ifdef K_MEAN
    for (int d = 0; d < DK; d += 32) {
        vfloat mean = k_mean(rec, lane, d);
        UNROLL for (int r = 0; r < ROWS; ++r) bias[r] += mean * vfloat(ld(qs, lane + (r * DK + d), first(lane, DK - d)));
    }
#endif
    tptr<float> codes = qs + CODES, digits = ps + ROWS * WIDE;
#if K_HIGH
    for (int w = 0; w < K_HIGH / 2; ++w) {
        prefetch(next + (AT_HIGH + w * PAGE), PAGE);
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
            vuint pair = ld(rec, lane + (AT_HIGH + w * PAGE + 32 * b), first(lane, BLOCK));
            vfloat low = half_lo(pair), high = half_hi(pair);
            UNROLL for (int r = 0; r < ROWS; ++r)
                x.s[r][b] += low * codes[r * DK + 2 * w] + high * codes[r * DK + 2 * w + 1];
        }
    }
#endif
#ifdef K_DECODED
#ifdef V_GIVEN
    const int kept = HOST ? 32 * DK : 0, staged = K_STAGED;       // from one block's coefficients to the next one's, and its words
    tptr<float> room = ps + ROWS * WIDE, rows = room + (HOST ? BLOCKS * kept : 32 * K_BLOCK);
#else
    const int kept = 0, staged = 0;
    tptr<float> room = ps + ROWS * WIDE, rows = room + 32 * K_BLOCK;
#endif
    dptr<const float> head = head_of(tables, at.h);
    vfloat gain[BLOCKS], like[BLOCKS];
    bool some = false;                                    // tokens like first ones
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        vuint byte = k_gains(rec, lane, 32 * b);
        gain[b] = gain_of(byte);
        like[b] = like_first(byte);
        bool any = simd_any(like[b] > 0.0f);
        some = some || any;
        K_WORDS words = k_near(rec, rows + (32 * K_ROWS + b * staged), lane, 32 * b);
        for (int n = 0; n < DK / K_BLOCK; ++n) {
            tptr<float> c = room + (b * kept + (kept > 0 ? 32 * n * K_BLOCK : 0));
            int used = k_coefficients(c, head, words, lane, gain[b], n);
            for (int m = 0; m < K_BLOCK; m += K_ROWS) {
                k_rows(rows, c, head, n, m, used);
                UNROLL for (int i = 0; i < K_ROWS; i += 2) {
                    int p = n * K_BLOCK + m + i;
                    pair k = k_turned(rows, head, lane, i, p, angle_of(tables, lane, kv_heads, page, 32 * b, p / 2), like[b], any);
                    int x0 = int(tables[p]), y0 = int(tables[p + 1]);
                    UNROLL for (int r = 0; r < ROWS; ++r) x.s[r][b] += k.x * qs[r * DK + x0] + k.y * qs[r * DK + y0];
                }
                SG_BARRIER;
            }
        }
    }
#elif K_INT8
#if K_PAGE
    split_rows(codes, digits, lane);
    SG_BARRIER;
#endif
    int8_scores(x, rec, next, digits, lane);
#elif STAGED && ROWS > 2 && !defined(K_F32)
    staged_scores(x, rec, next, codes, digits, lane);
#else
    for (int g = 0; g < K_GROUPS; ++g) {
        vuint k[BLOCKS][K_LOADS];
        int at = AT_K + g * (K_LOADS * PAGE);
        prefetch(next + at, K_LOADS * PAGE);
        UNROLL for (int b = 0; b < BLOCKS; ++b)
            UNROLL for (int i = 0; i < K_LOADS; ++i) k[b][i] = ld(rec, lane + (at + i * PAGE + 32 * b), first(lane, BLOCK));
        UNROLL for (int j = 0; j < K_PER; ++j) {
            vfloat code[BLOCKS];
            UNROLL for (int b = 0; b < BLOCKS; ++b) code[b] = K_CODE(k[b], j);
            UNROLL for (int r = 0; r < ROWS; ++r) {
                float q = codes[r * DK + K_HIGH + g * K_PER + j];
                UNROLL for (int b = 0; b < BLOCKS; ++b) x.s[r][b] += code[b] * q;
            }
        }
    }
#endif
#ifdef K_OUTLIER
    vfloat outlier[ROWS];                                 // what the token that is held aside has: its lanes are summed
    UNROLL for (int r = 0; r < ROWS; ++r) outlier[r] = 0.0f;
    for (int d = 0; d < DK; d += 32) {
        vfloat k = k_outlier(rec, lane, d);
        UNROLL for (int r = 0; r < ROWS; ++r) outlier[r] += k * vfloat(ld(qs, lane + (r * DK + d), first(lane, DK - d)));
    }
    UNROLL for (int r = 0; r < ROWS; ++r) outlier[r] = simd_sum(outlier[r]);
#endif
#ifdef K_TOKEN
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        vfloat scale = k_scale(rec, lane, 32 * b);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            x.s[r][b] = x.s[r][b] * scale;
#ifdef K_OUTLIER
            x.s[r][b] += select(vfloat(0.0f), outlier[r], is_outlier(scale));
#endif
        }
    }
#endif
    bool edge = BLOCK < 32 || page * PAGE <= at.p1 - at.window || (page + 1) * PAGE > at.p0;
    UNROLL for (int r = 0; r < ROWS; ++r) {
        int p = at.p0 + r / GR, end = p / PAGE > page ? (page + 1) * PAGE : 0;
#ifdef K_BIAS
        float more = simd_sum(bias[r]);
#else
        float more = 0.0f;
#endif
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
            x.s[r][b] = x.s[r][b] * S_UNIT + more;
            if (edge) mask(x, b, lane, page * PAGE + 32 * b, p - at.window + 1, end, r);
        }
    }
#ifdef V_TOKEN
    soften(a, x, ps, lane, BLOCKS, false);
#else
    soften(a, x, ps, lane, BLOCKS);
#endif
#ifdef V_FIRST
    if (some) UNROLL for (int r = 0; r < ROWS; ++r) {
        vfloat sum = 0.0f;
        UNROLL for (int b = 0; b < BLOCKS; ++b) sum += x.s[r][b] * like[b];
        token more;                                       // the first token's groups of LINES lines hold it
        UNROLL for (int i = 0; i < V_COLUMNS; ++i) UNROLL for (int j = 0; j < V_PER; ++j) more.v[i][j] = a.acc[r][i][j];
        v_first(more, head, lane, simd_sum(sum));
        UNROLL for (int i = 0; i < V_COLUMNS; ++i) UNROLL for (int j = 0; j < V_PER; ++j) a.acc[r][i][j] = more.v[i][j];
    }
#endif
#ifdef V_GIVEN
    sum_given(a, x, gain, room, rows + 32 * K_ROWS, rec, head, lane);
#endif
#if V_INT8
    vint most = 0;                                        // of the scales
#endif
#ifdef V_TOKEN
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        V_TOKEN factors = v_factors(rec, lane, 32 * b);
        vfloat scale = v_scale(factors);
#if V_INT8
        most = max(most, vint(as_uint(scale) & 0x7fffffffu));
#endif
        UNROLL for (int r = 0; r < ROWS; ++r) {
#ifdef V_OFFSET
#if CENTRED
            a.offset[r] += x.s[r][b] * (v_offset(factors) + scale * V_MIDDLE);
#else
            a.offset[r] += x.s[r][b] * v_offset(factors);
#endif
#endif
            x.s[r][b] = x.s[r][b] * scale;
#if !V_INT8
            ps[lane + (r * WIDE + 32 * b)] = x.s[r][b] * V_PLACES;
#endif
        }
    }
#endif
#if V_INT8
    float unit = weights_unit(most);
    split_weights(x, unit, ps, lane);
#endif
    SG_BARRIER;
#if V_INT8
    int8_values(a, rec, next, ps, unit, lane);
#elif STAGED && ROWS > 2 && (V_DEEP > 1 || TOKENS == 1) && !defined(V_F32)
    staged_values(a, rec, next, ps, ps + ROWS * WIDE, lane);
#else
    sum_values(a, rec, next, ps, lane);
#endif
    SG_BARRIER;
}
