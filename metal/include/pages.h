// What kernels know of pages. Built with DK, DV, PAGE, RECORD (words of a record), AT_V, AT_END (where V's part of it
// begins, and where it ends), and what the encodings of K and V say: K_PER numbers of K in K_LOADS words, V_PER and V_LOADS,
// K_STAGES and V_STAGES (log2 of the blocks that are rotated). Headers of formats/ follow; see formats/README.md.
#pragma once
#define BLOCK (PAGE < 32 ? PAGE : 32)                     // tokens that one SIMD-group takes at once, one a lane
#define BLOCKS (PAGE / BLOCK)
#define V_UNITS (DV / V_PER)                              // groups of a token of V, one a lane
#define V_COLUMNS ((V_UNITS + 31) / 32)
#define LOG2E 1.44269504f

// A row of Batch.sequences: rows of new tokens from `row` on, and of the output from `out` on.
struct sequence { int row, count, start, slot, complete, out; };
inline sequence sequence_at(dptr<const int> sequences, int b) {
    dptr<const int> s = sequences + b * 8;
    sequence r;
    r.row = s[0]; r.count = s[1]; r.start = s[2]; r.slot = s[3]; r.complete = s[4]; r.out = s[5];
    return r;
}
inline long record_at(int page, int kv_heads, int h) { return long(page * kv_heads + h) * RECORD; }
inline dptr<const half> halves(dptr<const uint> words) { return dptr<const half>(words); }
inline dptr<half> halves_to(dptr<uint> words) { return dptr<half>(words); }

// Groups of a head: [c][j] is number (32 c + lane) * P + j.
template <int C, int P> struct numbers { vfloat v[C][P]; };
typedef numbers<(DK + 31) / 32, 1> key;                   // a token's K, a channel a lane
typedef numbers<V_COLUMNS, V_PER> token;                  // a token's V, a group a lane

// The orthonormal Walsh-Hadamard transform of blocks of 2^STAGES numbers; its own inverse.
template <int STAGES, int C, int P> APART void hadamard(thread numbers<C, P>& x, vlane lane) {
    UNROLL for (int k = 0; k < STAGES; ++k) {
        const int s = 1 << k, m = s / P, n = m / 32;
        UNROLL for (int c = 0; c < C; ++c)
            UNROLL for (int j = 0; j < P; ++j) {
                if (s < P) {
                    if ((j & s) == 0) {
                        vfloat a = x.v[c][j], b = x.v[c][(j | s) % P];
                        x.v[c][j] = a + b;
                        x.v[c][(j | s) % P] = a - b;
                    }
                } else if (m < 32) {
                    vfloat own = x.v[c][j];
                    x.v[c][j] = simd_shuffle_xor(own, m) + select(own, -own, (vint(lane) & m) != 0);
                } else if ((c & n) == 0) {
                    vfloat a = x.v[c][j], b = x.v[(c | n) % C][j];
                    x.v[c][j] = a + b;
                    x.v[(c | n) % C][j] = a - b;
                }
            }
    }
    float f = rsqrt(float(1 << STAGES));
    UNROLL for (int c = 0; c < C; ++c) UNROLL for (int j = 0; j < P; ++j) x.v[c][j] = x.v[c][j] * f;
}
// The same of DK numbers in threadgroup memory.
inline void rotate_key(tptr<float> row, vlane lane) {
    key x;
    UNROLL for (int c = 0; c < (DK + 31) / 32; ++c) x.v[c][0] = ld(row, lane + 32 * c, first(lane, DK - 32 * c));
    hadamard<K_STAGES>(x, lane);
    SG_BARRIER;
    UNROLL for (int c = 0; c < (DK + 31) / 32; ++c) st(row, lane + 32 * c, x.v[c][0], first(lane, DK - 32 * c));
}
