// The lanes dialect on a CPU, its values: a v-type holds the 32 lanes of one SIMD-group, in NP machine vectors.
// Uniform values stay scalars, so mixing them up with varying ones, or branching on a vbool, does not compile.
#pragma once
#include "lanes_isa.h"

namespace lanes {
struct int3 { int x, y, z; };

// ---- varying values -------------------------------------------------------------------------------
struct vint; struct vuint;
struct vbool { ipart p[NP]; };
#define LANES_TYPE(V, P, S)                                                                        \
    P p[NP];                                                                                       \
    LI V() {}                                                                                      \
    LI V(S s) { EACH p[k_] = s - P{}; }                                                            \
    LI S get(int l) const { return p[l / W][l % W]; }                                              \
    LI void set(int l, S s) { p[l / W][l % W] = s; }
struct vfloat;
#if LANES_AVX2
struct vtotal;
#endif
struct vint { LANES_TYPE(vint, ipart, int) LI explicit vint(vuint u); LI explicit vint(vfloat f); };
struct vuint {
    LANES_TYPE(vuint, upart, uint) LI vuint(int s) : vuint(uint(s)) {}
    LI explicit vuint(vint i);
    LI explicit vuint(vfloat f);
};
struct vfloat {
    LANES_TYPE(vfloat, fpart, float)
    LI explicit vfloat(vint a) { EACH p[k_] = __builtin_convertvector(a.p[k_], fpart); }
    LI explicit vfloat(vuint a) { EACH p[k_] = __builtin_convertvector(a.p[k_], fpart); }
#if LANES_AVX2
    LI explicit vfloat(vtotal t);
#endif
};
// Sums of which the sum of all lanes counts, not what each has: in one vector, where there are few.
#if LANES_AVX2
struct vtotal { fpart p; LI void operator=(float zero) { p = zero - fpart{}; } };
LI vfloat::vfloat(vtotal t) { EACH p[k_] = k_ ? fpart{} : t.p; }
LI vtotal operator+(vtotal t, vfloat v) { EACH t.p = t.p + v.p[k_]; return t; }
LI vtotal operator+(vtotal t, vtotal v) { t.p = t.p + v.p; return t; }
LI vtotal add_product(vtotal t, vfloat a, vfloat b) {     // GCC, tuning for these CPUs, would multiply and then add
    EACH t.p = (fpart)_mm256_fmadd_ps((__m256)a.p[k_], (__m256)b.p[k_], (__m256)t.p);
    return t;
}
#else
typedef vfloat vtotal;
#endif
LI vint::vint(vuint u) { EACH p[k_] = (ipart)u.p[k_]; }
LI vint::vint(vfloat f) { EACH p[k_] = __builtin_convertvector(f.p[k_], ipart); }
LI vuint::vuint(vint i) { EACH p[k_] = (upart)i.p[k_]; }
LI vuint::vuint(vfloat f) { EACH p[k_] = (upart)__builtin_convertvector(f.p[k_], ipart); }
LI vfloat as_float(vuint a) { vfloat r; EACH r.p[k_] = (fpart)a.p[k_]; return r; }
LI vuint as_uint(vfloat a) { vuint r; EACH r.p[k_] = (upart)a.p[k_]; return r; }
LI float as_float(uint a) { return bits<float>(a); }
LI uint as_uint(float a) { return bits<uint>(a); }

#define LANES_OP(V, op)                                                                            \
    LI V operator op(V a, V b) { V r; EACH r.p[k_] = a.p[k_] op b.p[k_]; return r; }               \
    LI V& operator op##=(V& a, V b) { EACH a.p[k_] = a.p[k_] op b.p[k_]; return a; }
#define LANES_CMP(V, op) LI vbool operator op(V a, V b) { vbool r; EACH r.p[k_] = (a.p[k_] op b.p[k_]); return r; }
#define LANES_SHIFT(V, op) LI V operator op(V a, int n) { V r; EACH r.p[k_] = a.p[k_] op n; return r; }
#define LANES_ARITH(V) LANES_OP(V, +) LANES_OP(V, -) LANES_OP(V, *) \
    LANES_CMP(V, <) LANES_CMP(V, <=) LANES_CMP(V, >) LANES_CMP(V, >=) LANES_CMP(V, ==) LANES_CMP(V, !=)
#define LANES_BITS(V) LANES_OP(V, &) LANES_OP(V, |) LANES_OP(V, ^) LANES_OP(V, /) LANES_OP(V, %) \
    LANES_OP(V, <<) LANES_OP(V, >>) LANES_SHIFT(V, <<) LANES_SHIFT(V, >>)
LANES_ARITH(vfloat) LANES_OP(vfloat, /) LANES_ARITH(vint) LANES_BITS(vint) LANES_ARITH(vuint) LANES_BITS(vuint)
LI vfloat add_product(vfloat t, vfloat a, vfloat b) { return t + a * b; }
LI vfloat operator-(vfloat a) { EACH a.p[k_] = -a.p[k_]; return a; }
LI vint operator-(vint a) { EACH a.p[k_] = -a.p[k_]; return a; }
LI vint operator~(vint a) { EACH a.p[k_] = ~a.p[k_]; return a; }
LI vuint operator~(vuint a) { EACH a.p[k_] = ~a.p[k_]; return a; }
LI vbool operator&&(vbool a, vbool b) { EACH a.p[k_] &= b.p[k_]; return a; }
LI vbool operator||(vbool a, vbool b) { EACH a.p[k_] |= b.p[k_]; return a; }
LI vbool operator!(vbool a) { EACH a.p[k_] = ~a.p[k_]; return a; }

struct vuint2 { vuint x, y; };
struct vuint4 { vuint x, y, z, w; };
struct vfloat4 {
    vfloat x, y, z, w;
    LI vfloat4() {}
    LI vfloat4(vfloat a, vfloat b, vfloat c, vfloat d) : x(a), y(b), z(c), w(d) {}
};
LI vfloat4 operator*(vfloat4 a, vfloat4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
LI vfloat4 operator+(vfloat4 a, vfloat4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
LI vfloat sum(vfloat4 v) { return (v.x + v.y) + (v.z + v.w); }

// ---- indices: what the lanes' addresses look like, known by type -----------------------------------
LI vint iota() { vint r; EACH EACH_LANE r.p[k_][l_] = k_ * W + l_; return r; }
struct vprefix { int n; LI operator vbool() const { return iota() < vint(n); } };        // lanes [0, n)
struct vlane { LI operator vint() const { return iota(); } LI int at(int l) const { return l; } };            // 0..31
struct vspan {
    int base;
    LI operator vint() const { return iota() + vint(base); }
    LI int at(int l) const { return base + l; }
};
LI int lanes_in(vprefix m) { return m.n; }
LI vprefix first(vlane, int n) { return {n < 0 ? 0 : n > 32 ? 32 : n}; }
LI vspan operator+(vlane, int b) { return {b}; }
LI vspan operator+(int b, vlane) { return {b}; }
LI vspan operator-(vlane, int b) { return {-b}; }
LI vspan operator+(vspan a, int b) { return {a.base + b}; }
LI vspan operator+(int b, vspan a) { return {a.base + b}; }
LI vspan operator-(vspan a, int b) { return {a.base - b}; }
LI vprefix operator<(vlane l, int n) { return first(l, n); }
LI vprefix operator<(vspan a, int n) { return first(vlane{}, n - a.base); }
#define LANES_LOP(op) LI vint operator op(vlane a, int b) { return vint(a) op vint(b); }
LANES_LOP(*) LANES_LOP(/) LANES_LOP(%) LANES_LOP(&) LANES_LOP(|) LANES_LOP(^) LANES_LOP(>>) LANES_LOP(<<)
LI vint operator*(int a, vlane b) { return vint(a) * vint(b); }
LI vint operator+(vlane a, vint b) { return vint(a) + b; }
LI vint operator+(vint a, vlane b) { return a + vint(b); }
#define LANES_LCMP(op)                                                                             \
    LI vbool operator op(vlane a, int b) { return vint(a) op vint(b); }                            \
    LI vbool operator op(vspan a, int b) { return vint(a) op vint(b); }
LANES_LCMP(>) LANES_LCMP(<=) LANES_LCMP(>=) LANES_LCMP(==) LANES_LCMP(!=)

// l / N * STRIDE + (l % N % MOD * NUM + OFF) / DEN + base, l = lane % PERIOD: fixed at compile time, so a load is a few contiguous
// loads and a permutation.
template <int N, int STRIDE, int NUM, int DEN, int OFF, int MOD, int PERIOD> struct vspread {
    int base;
    static constexpr LI int off(int l) { return l % PERIOD / N * STRIDE + (l % PERIOD % N % MOD * NUM + OFF) / DEN; }
    LI int at(int l) const { return base + off(l); }
    LI operator vint() const { vint r; EACH EACH_LANE r.p[k_][l_] = off(k_ * W + l_); return r + vint(base); }
};
template <int N, int STRIDE, int NUM = 1, int DEN = 1, int OFF = 0, int MOD = N, int PERIOD = 32>
LI vspread<N, STRIDE, NUM, DEN, OFF, MOD, PERIOD> spread(vlane) { return {0}; }
#define LANES_SPREAD template <int N, int S, int A, int B, int O, int D, int P_
#define LANES_SPREAD_OF vspread<N, S, A, B, O, D, P_>
LANES_SPREAD> LI LANES_SPREAD_OF operator+(LANES_SPREAD_OF s, int b) { return {s.base + b}; }
LANES_SPREAD> LI LANES_SPREAD_OF operator+(int b, LANES_SPREAD_OF s) { return {s.base + b}; }
LI int lane_of(vint i, int l) { return i.get(l); }
template <class I> LI int lane_of(I i, int l) { return i.at(l); }
}  // namespace lanes
