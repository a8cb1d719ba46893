// For seal: the plain K or V of one page and head, by token or by channel. After KVTYPE.
struct source {
    dptr<const int> rows;                                 // of the page's tokens: of the tail below `tails`, then of fresh
    dptr<const KVTYPE> tail, fresh;
    int tails, stride, at;                                // stride: of a row; at: where the head begins in it
#ifdef K_CALIBRATED
    dptr<const float> tables;                             // of the layer; the page is the number-th of its sequence
    int number, head, heads;
#endif
    bool old, later;                                      // whether some rows are the tail's, and some are fresh
};
inline source source_of(dptr<const int> rows, dptr<const KVTYPE> tail, dptr<const KVTYPE> fresh, int tails, int stride,
                        int at) {
    source s;
    s.rows = rows; s.tail = tail; s.fresh = fresh; s.tails = tails; s.stride = stride; s.at = at;
    s.old = rows[0] < tails;                              // a page's tokens are in order: the tail's come first
    s.later = rows[PAGE - 1] >= tails;
    return s;
}
// Where token t begins.
inline dptr<const KVTYPE> take_token(thread const source& s, int t) {
    int row = s.rows[t];
    bool is_old = row < s.tails;
    dptr<const KVTYPE> from = is_old ? s.tail + row * s.stride : s.fresh + (row - s.tails) * s.stride;
    return from + s.at;
}
// The V of token t.
inline token values_of(thread const source& s, vlane lane, int t) {
    dptr<const KVTYPE> from = take_token(s, t);
    token x;
    UNROLL for (int c = 0; c < V_COLUMNS; ++c)
        UNROLL for (int j = 0; j < V_PER; ++j)
            x.v[c][j] = vfloat(ld(from, spread<32, 0, V_PER>(lane) + (32 * c * V_PER + j), first(lane, V_UNITS - 32 * c)));
    return x;
}
inline vint take_rows(thread const source& s, vlane lane, int b) { return ld(s.rows, lane + 32 * b, first(lane, BLOCK)); }
// Channel d of 32 tokens, one a lane, whose rows are these.
inline vfloat take_channel(thread const source& s, vlane lane, vint row, int d) {
    vint below = min(row, vint(s.tails - 1)), above = max(row - s.tails, vint(0));
    vfloat a = 0.0f, b = 0.0f;
    if (s.old) a = vfloat(ld(s.tail, below * s.stride + (s.at + d), first(lane, BLOCK)));
    if (s.later) b = vfloat(ld(s.fresh, above * s.stride + (s.at + d), first(lane, BLOCK)));
    return select(a, b, row >= s.tails);
}
// Number d of the tokens in the first so many lanes, whose rows are these.
inline vfloat take_number(thread const source& s, vlane lane, vint row, vint d, int lanes) {
    vint below = min(row, vint(s.tails - 1)), above = max(row - s.tails, vint(0));
    vfloat a = 0.0f, b = 0.0f;
    if (s.old) a = vfloat(ld(s.tail, below * s.stride + d + s.at, first(lane, lanes)));
    if (s.later) b = vfloat(ld(s.fresh, above * s.stride + d + s.at, first(lane, lanes)));
    return select(a, b, row >= s.tails);
}
// The same of channels d to d + 3.
inline vfloat4 take_four(thread const source& s, vlane lane, vint row, int d) {
    vint below = min(row, vint(s.tails - 1)), above = max(row - s.tails, vint(0));
    if (!s.later) return ld4(s.tail, below * s.stride + (s.at + d), first(lane, BLOCK));
    if (!s.old) return ld4(s.fresh, above * s.stride + (s.at + d), first(lane, BLOCK));
    vfloat4 a = ld4(s.tail, below * s.stride + (s.at + d), first(lane, BLOCK));
    vfloat4 b = ld4(s.fresh, above * s.stride + (s.at + d), first(lane, BLOCK));
    vbool is = row >= s.tails;
    return vfloat4(select(a.x, b.x, is), select(a.y, b.y, is), select(a.z, b.z, is), select(a.w, b.w, is));
}
// The i-th token of a loop from sg on in steps of SGS: a SIMD-group takes neighbours, whose scales of fp16 share a word.
#define TOKEN_OF(i) ((i) / (2 * SGS) * (2 * SGS) + (i) % SGS * 2 + (i) / SGS % 2)
#define K_STEP (K_PER < 4 ? 4 : K_PER)                    // channels that are encoded at once
struct channels { vfloat v[K_STEP][BLOCKS]; };            // of a page's tokens; lane = token
inline channels take_channels(thread const source& s, vlane lane, int d) {
    channels x;
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        vint row = take_rows(s, lane, b);
        UNROLL for (int e = 0; e < K_STEP; e += 4) {
            vfloat4 four = take_four(s, lane, row, d + e);
            x.v[e][b] = four.x;
            x.v[e + 1][b] = four.y;
            x.v[e + 2][b] = four.z;
            x.v[e + 3][b] = four.w;
        }
    }
    return x;
}
