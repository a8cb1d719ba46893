// K before RoPE in coefficients of a fitted transform: what q3 and q2 share. Built with K_BLOCK (channels of a transform) and
// K_PLANES (bits of a token). Record: for each 32 tokens K_PLANES words, each a bit of 32 tokens' codes; then gains, a byte a
// token. `tables` (Tables.constants): the order of channels, cosines and sines of a page's tokens; for each KV head what is
// under H_ below; cosines and sines of each page's first token.
#define K_DECODED
#define AT_K 0
#define AT_KG (PAGE / 32 * K_PLANES)
#define T_STEPS DK                                        // [DK / 2][2][PAGE]
#define T_HEADS (DK + DK * PAGE)
#define H_FORWARD (DK * K_BLOCK)                          // after the inverse [DK / K_BLOCK][K_BLOCK][K_BLOCK], as that
#define H_MEAN (2 * DK * K_BLOCK)
#define H_FIRST (H_MEAN + DK)                             // what a token like sequences' first ones has more
#define H_BITS (H_FIRST + DK)                             // of each coefficient; K_WIDE: levels of its own
#define H_START (H_BITS + DK)                             // its first plane
#define H_WEIGHT (H_START + DK)
#define H_FIRST_CODE (H_WEIGHT + DK)                      // in coefficients
#define H_LEVELS (H_FIRST_CODE + DK)                      // [6][32]: by bits
#define H_STEP (H_LEVELS + 192)                          // between the wide levels; then coefficients of a block that have bits
#define H_HALFWAY (H_STEP + 15)                           // half the square of what first tokens have more
#define H_VALUE (H_STEP + 16)                            // of V: what a token like first ones has more; the same rotated
#define H_MEAN_V (H_VALUE + 2 * DV)                       // of V, by place (Tables): what its header makes of groups
#define H_MAP (H_MEAN_V + DV)                             // [DV][DK]: coefficients to V, by place; then transposed
#define H_SIZE (H_MAP + 2 * DV * DK)
#define K_WIDE 8
#define K_TRELLIS 4                                       // bits of a coefficient on a trellis (trellis.h), at most
#define K_ROWS 16                                         // of a product of matrices
#define K_SCRATCH (32 * K_BLOCK + 32 * K_ROWS)            // floats that reading 32 tokens takes, beside K_STAGED
#define K_STAGED (HOST ? 0 : (K_PLANES + 31) / 32 * 32)   // words of a block of tokens that are brought near, on a GPU

struct pair { vfloat x, y; };                             // of channels that are rotated together
struct angle { vfloat cosine, sine; };
inline dptr<const float> head_of(dptr<const float> tables, int h) { return tables + (T_HEADS + h * H_SIZE); }
// Of tokens t0 + lane of a page, the n-th of its sequence, for pair i.
inline angle angle_of(dptr<const float> tables, vlane lane, int kv_heads, int n, int t0, int i) {
    int at = T_HEADS + kv_heads * H_SIZE + n * DK + i;
    float c0 = tables[at], s0 = tables[at + DK / 2];
    vfloat c = tables[lane + (T_STEPS + 2 * i * PAGE + t0)], s = tables[lane + (T_STEPS + (2 * i + 1) * PAGE + t0)];
    angle a;
    a.cosine = c * c0 - s * s0;
    a.sine = s * c0 + c * s0;
    return a;
}
// Which tokens are like first ones, by the bytes of their gains: 1, or 0.
inline vfloat like_first(vuint byte) { return select(vfloat(0.0f), vfloat(1.0f), byte > 0u && byte < 64u); }
inline vfloat gain_of(vuint byte) {
    vfloat g = exp2(select((vfloat(byte) - 128.0f) * 0.0625f, (vfloat(byte) - 48.0f) * 0.125f, byte < 64u));
    return select(select(g, vfloat(0.0f), byte == 0u), vfloat(NAN), byte == 255u);
}
// The bytes of the gains of tokens t0 + lane.
inline vuint k_gains(dptr<const uint> rec, vlane lane, int t0) {
    vuint four = ld(rec, lane + (AT_KG + t0 / 4), first(lane, 8));
    return simd_shuffle(four, vint(lane) / 4) >> vuint((vint(lane) & 3) * 8) & 255u;
}
// Words of 32 tokens, where they can be read one by one.
#if HOST
#define K_WORDS dptr<const uint>
inline K_WORDS k_near(dptr<const uint> rec, tptr<float>, vlane, int t0) { return rec + t0 / 32 * K_PLANES; }
#else
#define K_WORDS tptr<const uint>
inline K_WORDS k_near(dptr<const uint> rec, tptr<float> room, vlane lane, int t0) {
    tptr<uint> to = tptr<uint>(room);
    for (int i = 0; i < K_PLANES; i += 32) {
        vuint w = ld(rec, lane + (t0 / 32 * K_PLANES + i), first(lane, K_PLANES - i));
        st(to, lane + i, w, first(lane, K_PLANES - i));
    }
    SG_BARRIER;
    return tptr<const uint>(to);
}
#endif
// Coefficients of block n of 32 tokens, to c [K_BLOCK][32]: as many as its matrix is to be multiplied with.
inline int k_coefficients(tptr<float> c, dptr<const float> head, K_WORDS words, vlane lane, vfloat gain, int n) {
    int used = int(head[H_STEP + 1 + n]);
    vuint own = vuint(vint(lane));
    uint u1 = 0u, u2 = 0u, u3 = 0u;                       // the path's bits of the three numbers before
    for (int j = 0; j < used; ++j) {
        int d = n * K_BLOCK + j, bits = int(head[H_BITS + d]), at = int(head[H_START + d]), from = 0;
        vuint code = 0u;
        if (bits > 0 && bits <= K_TRELLIS) {
            uint u = words[at];
            code = (vuint(u2) >> own & 1u) | (vuint(u ^ u1 ^ u3) >> own & 1u) << 1;
            u3 = u2;
            u2 = u1;
            u1 = u;
            from = 1;
        }
        for (int i = from; i < bits; ++i) code |= (vuint(uint(words[at + i])) >> own & 1u) << (i + from);
        vfloat value = (vfloat(vint(code)) - 128.0f) * head[H_STEP] + gain * 0.0f;
        if (bits < K_WIDE) {
            vfloat levels = head[lane + (H_LEVELS + 32 * bits)];
            value = simd_shuffle(levels, vint(code)) * gain;
        }
        c[lane + 32 * j] = value;
    }
    SG_BARRIER;
    return used;
}
// Places m to m + K_ROWS - 1 of block n, before RoPE, to y [K_ROWS][32].
inline void k_rows(tptr<float> y, tptr<float> c, dptr<const float> head, int n, int m, int used) {
    tile<K_ROWS> t;
    fill(t, 0.0f);
    mma(t, head + (n * K_BLOCK + m) * K_BLOCK, K_BLOCK, c, used, 32);
    store(t, y, 32);
    SG_BARRIER;
}
// The pair at row i of y, at place p of the head, rotated. like: as like_first gives it; any: whether it has some.
inline pair k_turned(tptr<float> y, dptr<const float> head, vlane lane, int i, int p, angle a, vfloat like, bool any) {
    vfloat u = y[lane + 32 * i], w = y[lane + 32 * (i + 1)];
    u = u + head[H_MEAN + p];
    w = w + head[H_MEAN + p + 1];
    if (any) {
        u += like * head[H_FIRST + p];
        w += like * head[H_FIRST + p + 1];
    }
    pair r;
    r.x = u * a.cosine - w * a.sine;
    r.y = u * a.sine + w * a.cosine;
    return r;
}

#ifdef SEALING
// A gain's byte: of 2^(1 / 16) steps, 128 for 1; 0 for 0, 255 where `sum` is not zero; of a token like first ones below 64.
inline vuint byte_of(vfloat gain, vfloat sum, vbool like) {
    vuint w = as_uint(gain);
    vfloat m = as_float((w & 0x7fffffu) | 0x3f800000u);
    vint n = vint(w >> 23) * 16 - 16 * 127;
    for (int i = 0; i < 16; ++i) n += select(vint(0), vint(1), m > exp2((float(i) + 0.5f) * 0.0625f));
    vint small = select(vint(1), min(max(((n + 1) >> 1) + 48, vint(1)), vint(63)), gain > 0.0f);
    n = select(select(vint(0), min(max(n + 128, vint(64)), vint(254)), gain > 0.0f), small, like);
    return select(vuint(255u), vuint(n), as_uint(sum) << 1 == 0u);        // by its bits: compilers may take it that there is no NaN
}
#define K_PHASES
// 32 tokens a SIMD-group, of K_SEALERS. Threadgroup memory of each: x [K_BLOCK][32], c [DK][32].
#define K_SEAL_ROOM (32 * K_BLOCK + 32 * DK)
#define K_SEALERS (8192 / K_SEAL_ROOM < SGS ? 8192 / K_SEAL_ROOM : SGS)
inline void k_first(thread const source& s, dptr<uint> rec, vlane lane, int sg, tptr<float> shared) {
    tptr<float> x = shared + sg % K_SEALERS * K_SEAL_ROOM, c = x + 32 * K_BLOCK;
    dptr<const float> head = head_of(s.tables, s.head);
    if (sg < K_SEALERS) for (int b = sg; b < BLOCKS; b += K_SEALERS) {
        vint row = take_rows(s, lane, b);
        vfloat along = 0.0f;                              // of what first tokens have more
        for (int n = 0; n < DK / K_BLOCK; ++n) {
            for (int i = 0; i < K_BLOCK; i += 2) {
                int p = n * K_BLOCK + i;
                angle a = angle_of(s.tables, lane, s.heads, s.number, 32 * b, p / 2);
                vfloat u = take_channel(s, lane, row, int(s.tables[p])), w = take_channel(s, lane, row, int(s.tables[p + 1]));
                vfloat y = u * a.cosine + w * a.sine - head[H_MEAN + p], z = w * a.cosine - u * a.sine - head[H_MEAN + p + 1];
                along += y * head[H_FIRST + p] + z * head[H_FIRST + p + 1];
                x[lane + 32 * i] = y;
                x[lane + 32 * (i + 1)] = z;
            }
            SG_BARRIER;
            for (int m = 0; m < K_BLOCK; m += K_ROWS) {
                tile<K_ROWS> t;
                fill(t, 0.0f);
                mma(t, head + (H_FORWARD + (n * K_BLOCK + m) * K_BLOCK), K_BLOCK, x, K_BLOCK, 32);
                store(t, c + 32 * (n * K_BLOCK + m), 32);
            }
            SG_BARRIER;
        }
        vfloat square = 0.0f, bad = 0.0f, above = 0.0f, below = 0.0f;
        float weights = 0.0f;
        vbool like = along > head[H_HALFWAY];
        bool any = simd_any(like);
        for (int d = 0; d < DK; ++d) {
            vfloat y = c[lane + 32 * d];
            bad += y * 0.0f;
            if (any) {
                y = y - select(vfloat(0.0f), vfloat(head[H_FIRST_CODE + d]), like);
                SG_BARRIER;
                c[lane + 32 * d] = y;
            }
            if (head[H_WEIGHT + d] > 0.0f) {
                square += y * y * head[H_WEIGHT + d];
                weights += head[H_WEIGHT + d];
            }
        }
        vfloat unit = select(vfloat(0.0f), 1.0f / sqrt(square / weights), square > 0.0f);
        vbool fine = as_uint(bad) << 1 == 0u;
        tptr<uint> kept = tptr<uint>(x);                  // x has been read
        for (int n = 0; n < DK; n += K_BLOCK) {
            trellis t;
            trellis_start(t);
            for (int d = n; d < n + K_BLOCK; ++d) {
                int bits = int(head[H_BITS + d]);
                if (bits > 0 && bits <= K_TRELLIS) {
                    vfloat own = c[lane + 32 * d];
                    vuint step = trellis_step(t, own * unit, head[H_WEIGHT + d], head + (H_LEVELS + 32 * bits), 2 << bits);
                    st(kept, lane + 32 * (d - n), step);
                }
            }
            vuint state = trellis_end(t);
            for (int d = n + K_BLOCK - 1; d >= n; --d) {
                int bits = int(head[H_BITS + d]);
                vfloat y = c[lane + 32 * d];
                vint code = 0;
                if (bits == K_WIDE) {
                    code = vint(min(max(rint(y / head[H_STEP]) + 128.0f, vfloat(0.0f)), vfloat(255.0f)));
                } else if (bits > 0) {
                    vfloat levels = head[lane + (H_LEVELS + 32 * bits)];
                    vuint index = 0u, u = state & 1u;
                    if (bits <= K_TRELLIS) {
                        vuint step = kept[lane + 32 * (d - n)];
                        index = trellis_back(state, step);
                        code = vint((index >> 2) << 1 | u);
                    } else {
                        vfloat least = INFINITY;
                        for (int i = 0; i < 1 << bits; ++i) {
                            vfloat e = y * unit - head[H_LEVELS + 32 * bits + i];
                            index = select(index, vuint(uint(i)), e * e < least);
                            least = min(least, e * e);
                        }
                        code = vint(index);
                    }
                    vfloat level = simd_shuffle(levels, vint(index)), weighted = level * head[H_WEIGHT + d];
                    above += y * weighted;
                    below += level * weighted;
                }
                vuint line = 0u;
                for (int i = 0; i < bits; ++i) {
                    uint word = ballot((code >> i & 1) != 0 && fine);
                    line = select(line, vuint(word), vint(lane) == i);
                }
                st(rec, lane + (b * K_PLANES + int(head[H_START + d])), line, first(lane, bits));
            }
            SG_BARRIER;
        }
        vuint byte = byte_of(select(vfloat(0.0f), above / below, below > 0.0f), bad, like);
        vuint w = byte << vuint((vint(lane) & 3) * 8);
        w = w | simd_shuffle_xor(w, 1);
        w = w | simd_shuffle_xor(w, 2);
        w = simd_shuffle(w, vint(lane) * 4 & 31);
        st(rec, lane + (AT_KG + 8 * b), w, first(lane, 8));
        SG_BARRIER;
    }
}
inline void k_second(thread const source&, dptr<uint>, vlane, int, tptr<float>) {}
inline void k_third(thread const source&, dptr<uint>, vlane, int, tptr<float>) {}
#endif
