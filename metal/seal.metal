// Records of complete pages: one threadgroup encodes one page of one KV head. Built with a header of formats/, then
// KVTYPE, SGS. rows[page][PAGE]: where its tokens lie: rows of the tails (below `tails`, these come first), from there on
// of k and v.
// out [pages][KV heads][RECORD]. Grid: x pages, y KV heads.
inline vfloat4 four(dptr<const KVTYPE> tail, dptr<const KVTYPE> fresh, vint row, vlane lane, int tails, bool old,
                    bool later, int stride, int at) {
    vint above = max(row - tails, vint(0)), below = min(row, vint(tails - 1));
    if (!later) return ld4(tail, row * stride + at, first(lane, BLOCK));
    if (!old) return ld4(fresh, above * stride + at, first(lane, BLOCK));
    vfloat4 a = ld4(tail, below * stride + at, first(lane, BLOCK));
    vfloat4 b = ld4(fresh, above * stride + at, first(lane, BLOCK));
    vbool is = row >= tails;
    return vfloat4(select(a.x, b.x, is), select(a.y, b.y, is), select(a.z, b.z, is), select(a.w, b.w, is));
}

KERNEL seal(dptr<const int> rows, dptr<const KVTYPE> k_tail, dptr<const KVTYPE> v_tail, dptr<const KVTYPE> k,
            dptr<const KVTYPE> v, dptr<uint> out, int kv_heads, int tails, GRID) {
    dptr<const int> mine = rows + tg.x * PAGE;
    dptr<uint> rec = out + record_at(tg.x, kv_heads, tg.y);
    SIMDGROUPS {
        bool old = mine[0] < tails, later = mine[PAGE - 1] >= tails;
        for (int d = sg * 4; d < DK; d += SGS * 4) {
            quads x;
            UNROLL for (int b = 0; b < BLOCKS; ++b) {
                vint row = ld(mine, lane + 32 * b, first(lane, BLOCK));
                x.v[b] = four(k_tail, k, row, lane, tails, old, later, kv_heads * DK, tg.y * DK + d);
            }
            encode_k(rec, lane, d, x);
        }
        for (int t = sg; t < PAGE; t += SGS) {
            int row = mine[t];
            token x;
            UNROLL for (int c = 0; c < V_COLUMNS; ++c)
                UNROLL for (int j = 0; j < V_PER; ++j) {
                    int at = tg.y * DV + 32 * c * V_PER + j;
                    bool is_old = row < tails;
                    dptr<const KVTYPE> from = is_old ? v_tail + row * kv_heads * DV : v + (row - tails) * kv_heads * DV;
                    x.v[c][j] = vfloat(ld(from, spread<32, 0, V_PER>(lane) + at, first(lane, V_WORDS - 32 * c)));
                }
            encode_v(rec, lane, t, x);
        }
        if (sg == 0) for (int i = AT_END; i < RECORD; i += 32) st(rec, lane + i, vuint(0u), first(lane, RECORD - i));
    }
}
