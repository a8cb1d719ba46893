// Records of complete pages: one threadgroup encodes one page of one KV head. Built with pages.h, formats/source.h and the
// headers of a format; then KVTYPE, SGS. rows[page][PAGE]: where its tokens lie: rows of the tails (below `tails`, these come
// first), from there on of k and v. numbers[page], where K is stored before RoPE: which page of its sequence each is.
// out [pages][KV heads][RECORD]. Grid: x pages, y KV heads.
KERNEL seal(dptr<const int> rows, dptr<const KVTYPE> k_tail, dptr<const KVTYPE> v_tail, dptr<const KVTYPE> k,
            dptr<const KVTYPE> v,
#ifdef K_CALIBRATED
            dptr<const float> tables, dptr<const int> numbers,
#endif
            dptr<uint> out, int kv_heads, int tails, GRID) {
    dptr<const int> mine = rows + tg.x * PAGE;
    dptr<uint> rec = out + record_at(tg.x, kv_heads, tg.y);
    source keys = source_of(mine, k_tail, k, tails, kv_heads * DK, tg.y * DK);
    source values = source_of(mine, v_tail, v, tails, kv_heads * DV, tg.y * DV);
#ifdef K_CALIBRATED
    keys.tables = values.tables = tables; keys.number = values.number = numbers[tg.x];
    keys.head = values.head = tg.y; keys.heads = values.heads = kv_heads;
#endif
#ifdef K_PHASES
    SIMDGROUPS { k_first(keys, rec, lane, sg, shared); }
    TG_BARRIER;
    SIMDGROUPS { k_second(keys, rec, lane, sg, shared); }
    TG_BARRIER;
#endif
    SIMDGROUPS {
#ifdef K_PHASES
        k_third(keys, rec, lane, sg, shared);
#else
        for (int d = sg * K_STEP; d < DK; d += SGS * K_STEP) {
            channels x = take_channels(keys, lane, d);
            encode_k(rec, lane, d, x);
        }
#endif
#if V_DEEP > 1
        for (int g = sg; g < PAGE / V_DEEP; g += SGS) {   // tokens whose codes share words
            vuint w[V_COLUMNS][3];
            UNROLL for (int c = 0; c < V_COLUMNS; ++c) UNROLL for (int i = 0; i < 3; ++i) w[c][i] = 0u;
#if V_LOADS > 1                                           // a number's words are known only where it is
            UNROLL
#endif
            for (int j = 0; j < V_DEEP; ++j) {
                token x = values_of(values, lane, g * V_DEEP + j);
                code_v(rec, lane, g * V_DEEP + j, x);
                UNROLL for (int c = 0; c < V_COLUMNS; ++c) put_v(w[c], vuint(vint(x.v[c][0])), j);
            }
            UNROLL for (int c = 0; c < V_COLUMNS; ++c)
                UNROLL for (int i = 0; i < V_LOADS; ++i)
                    st(rec, lane + (AT_V + (g * V_LOADS + i) * DV + 32 * c), w[c][i], first(lane, DV - 32 * c));
        }
#elif !defined(V_LLOYD)
        for (int i = sg; i < PAGE; i += SGS) {
            int t = TOKEN_OF(i);
            token x = values_of(values, lane, t);
            encode_v(rec, lane, t, x);
        }
#endif
        if (sg == 0) for (int i = AT_END; i < RECORD; i += 32) st(rec, lane + i, vuint(0u), first(lane, RECORD - i));
    }
#ifdef V_GIVEN
    TG_BARRIER;
    DEVICE_BARRIER;                                       // K's codes are read
    SIMDGROUPS {
        tptr<float> own = shared + sg % V_SEALERS * V_SEAL_ROOM;
        if (sg < V_SEALERS)
            for (int t0 = sg * 32; t0 < PAGE; t0 += V_SEALERS * 32) {
                expect_values(values, rec, lane, t0, own);
                v_prepare(own, lane);
                SG_BARRIER;
                for (int t = t0; t < t0 + 32; t += V_AT_ONCE) encode_v(values, rec, lane, t, own, own + 32);
            }
    }
#elif defined(V_LLOYD)
    TG_BARRIER;                                           // K's phases are done with threadgroup memory
    SIMDGROUPS { if (sg == 0) v_prepare(shared, lane); }
    TG_BARRIER;
    SIMDGROUPS {
        if (sg < V_SEALERS)
            for (int t = sg * V_AT_ONCE; t < PAGE; t += V_SEALERS * V_AT_ONCE)
                encode_v(values, rec, lane, t, shared, shared + 32 + sg * V_SEAL_ROOM);
    }
#endif
}
