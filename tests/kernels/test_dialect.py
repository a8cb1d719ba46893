"""What the dialect's operations give: on this CPU, in its narrower forms, checked, and in the simulator."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator, relative

from mlxr.errors import KernelError
from mlxr.kernels import host_build, library
from mlxr.kernels.library import Kernel

X86 = any("-march" in f for f in host_build.kernel_flags())
FORMS = {
    "native": [],
    **({"avx2": ["-march=haswell"]} if X86 else {}),
    "portable": ["-DLANES_PORTABLE", "-DLANES_NO_AVX512"],
}
needs_compiler = pytest.mark.skipif(host_build.compiler() is None, reason="no C++ compiler")

# One step a line of output: 32 floats.
OPS = """
TABLE16(SIXTEEN, 3.0f, -1.0f, 4.0f, 1.0f, -5.0f, 9.0f, 2.0f, -6.0f, 5.0f, 3.5f, 5.5f, 8.0f, 9.5f, -7.0f, 9.25f, 0.5f);
BYTES16(FOURS, 3, 255, 4, 128, 5, 9, 200, 6, 15, 35, 55, 80, 127, 7, 0, 99);
KERNEL ops(dptr<const float> a, dptr<const ushort> w, dptr<const int> t, dptr<float> y, dptr<half> h,
           dptr<bfloat16_t> e, int n, GRID) {
    SIMDGROUPS {
        vfloat x = a[lane], z = a[lane + 32];
        int r = 0;
#define ROW(...) { vfloat row_ = (__VA_ARGS__); y[lane + 32 * r] = row_; r += 1; }
        ROW(x + z * 2.0f) ROW(x - z / 3.0f) ROW(max(x, z) * min(x, z))
        ROW(select(x, z, x > z)) ROW(select(x, z, !(x > 0.0f) || z < 0.5f && lane < 20)) ROW(abs(x))
        ROW(rint(x * 10.0f)) ROW(exp2(x * 30.0f)) ROW(sqrt(abs(x)))
        ROW(vfloat(simd_sum(x))) ROW(vfloat(simd_max(x))) ROW(vfloat(simd_min(x))) ROW(vfloat(simd_broadcast(x, n)))
        ROW(simd_shuffle(x, (vint(lane) * 7 + 3) % 32)) ROW(simd_shuffle_xor(x, 5)) ROW(vfloat(vint(x * 100.0f)))
        ROW(vfloat(vuint(vint(lane) * 3) >> 2u)) ROW(vfloat((vint(lane) << 3 ^ 21) & 31)) ROW(vfloat(t[lane] % 5))
        ROW(vfloat(t[7]) * half_lo(uint(w[3])))
        ROW(ld(a, lane + n, first(lane, n))) ROW(ld(a, lane * 3, lane < 17))
        ROW(ld(a, vint(lane) * 2, vint(lane) % 3 == 1))
        ROW(a[spread<4, 5>(lane) + 2]) ROW(ld(a, spread<4, 5>(lane) + 2, first(lane, 22)))
        ROW(ld(a, spread<32, 0, 3, 4, 2>(lane), first(lane, 32)))
        ROW(ld(a, spread<8, 1, 0>(lane) + n, first(lane, n)))
        vuint p = ld_pair(w, spread<4, 9, 2>(lane) + 1, first(lane, 32)); ROW(half_lo(p)) ROW(half_hi(p))
        ROW(bfloat_lo(p)) ROW(bfloat_hi(p))
        held<136> u136 = ld_held<136>(w + 3, 136); held<72> u72 = ld_held<72>(w + 1, 45); held<105> u105 = ld_held<105>(w, 105);
        p = ld_pair(u136, spread<4, 17, 2, 1, 9>(lane)); ROW(half_lo(p)) ROW(half_hi(p)) ROW(ld_half(u136, spread<4, 17, 0>(lane)))
        p = ld_pair(u72, spread<4, 9, 2, 1, 1>(lane)); ROW(half_lo(p)) ROW(half_hi(p)) ROW(ld_half(u72, spread<2, 9, 0, 1, 0, 2, 16>(lane)))
        p = ld_pair(u105, spread<8, 16, 4, 1, 66, 4, 16>(lane)); ROW(half_lo(p)) ROW(half_hi(p)) ROW(ld_half(u105, spread<1, 3, 1, 1, 11>(lane)))
        p = ld_pair(w, spread<8, 17, 2>(lane) + 1, first(lane, 21)); ROW(half_lo(p)) ROW(half_hi(p))
        ROW(vfloat(ld(dptr<const half>(w), spread<8, 17, 0>(lane) + 2, first(lane, 32))))
        ROW(vfloat(ld(dptr<const half>(w), lane + n, first(lane, n))))
        ROW(vfloat(ld(dptr<const bfloat16_t>(w), lane + n)))
        ROW(vfloat(ld(dptr<const bfloat16_t>(w), spread<4, 9>(lane) + 1, first(lane, 31))))
        vuint u = ld(dptr<const uchar>(w), lane + n, first(lane, 30)); ROW(vfloat(u))
        vint s = ld(dptr<const char>(w), lane + n); ROW(vfloat(s))
        s = ld(dptr<const short>(w), lane + 1, first(lane, n)); ROW(vfloat(s))
        vfloat4 q = ld4(a, lane * 4, first(lane, 32)); ROW(q.x) ROW(q.y) ROW(q.z + q.w * 2.0f)
        q = ld4(a, spread<4, 20, 4>(lane) + 4, first(lane, 23)); ROW(sum(q))
        q = ld4(dptr<const half>(w), lane * 4, first(lane, 30)); ROW(q.x - q.w)
        ROW(as_float(as_uint(x) ^ 0x80000000u)) ROW(half_lo(half_pair(x, z)) + half_hi(half_pair(x, z)))
        vuint4 d = ld_words(dptr<const uint>(w), vint(lane) * 2 + 3); ROW(half_lo(d.x)) ROW(half_hi(d.w))
        d = ld_words(w, vint(lane) * 5 + 1); ROW(half_lo(d.y)) ROW(half_hi(d.z))
        ROW(vfloat(ld(dptr<const half>(w), vint(lane) * 3, first(lane, n))))
        vuint c = vuint(vint(ld(t, lane + 0))); ROW(pick16(SIXTEEN, c)) ROW(a[spread<16, 20, 3, 2, 1, 4>(lane) + 2])
        c = ld(dptr<const uchar>(w), spread<4, 17, 0>(lane) + 3, first(lane, 32)); ROW(vfloat(c))
        s = ld(dptr<const char>(w), spread<8, 5>(lane) + 1, first(lane, 27)); ROW(vfloat(s))
        c = ld(dptr<const uchar>(w), spread<8, 40, 2, 1, 0, 3>(lane) + n, first(lane, n)); ROW(vfloat(c))
        c = ld_word(dptr<const uchar>(w), spread<4, 17, 4>(lane) + 1, first(lane, 24)); ROW(half_lo(c)) ROW(half_hi(c))
        d = ld_words(dptr<const uchar>(w), vint(lane) * 9 + 1); ROW(half_lo(d.y)) ROW(half_hi(d.w))
        ROW(vfloat(dot4(vint(lane) * 1000, ld(dptr<const uint>(w), lane + 2), uint(t[5]) * 0x01fd0703u)))
        ROW(vfloat(dot4(vint(lane) * 1000, vuint(uint(t[5]) * 0x01fd0703u), ld(dptr<const uint>(w), lane + 2))))
        c = pick_bytes(FOURS, ld(dptr<const uint>(w), lane + 1) & 0x0f0f0f0fu); ROW(vfloat(c & 0xffffu)) ROW(vfloat(c >> 16))
        c = pick_bytes(dptr<const uchar>(w) + 3, ld(dptr<const uint>(w), lane + 1) & 0x0f0f0f0fu);
        ROW(vfloat(c & 0xffffu)) ROW(vfloat(c >> 16)) ROW(simd_shuffle16(x, (vint(lane) * 5 + 2) % 16))
        ROW(add_some<0xffff5a5au>(x, z, lane)) ROW(add_some<0xaaaau>(x, z, lane))
        ROW(evens(x, lane) - odds(z, lane)) ROW(ld_in_turns<2>(dptr<const half>(w) + 3, dptr<const half>(w) + 20, lane, 16))
        ROW(ld_in_turns<4>(dptr<const half>(w) + 3, dptr<const half>(w) + 20, lane, 16)) ROW(ld_in_turns<8>(dptr<const bfloat16_t>(w) + 3, dptr<const bfloat16_t>(w) + 20, lane, 16))
        ROW(ld_in_turns<4>(dptr<const half>(w) + 3, dptr<const half>(w) + 20, lane, n)) ROW(ld_in_turns<8>(a + 3, a + 20, lane, 16))
        four_words f = pick<2, 0, 3, 1>(ld_four(dptr<const uint>(w) + 1)); f = f >> four(4, 0, 9, 2) & four(0x7f7f7fffu, ~0u, 0xffu, ~0u) | f;
        ROW(vfloat(byte_of(f, vint(lane) * 7 % 16))) ROW(vfloat(byte_twice(f, vint(lane) % 16)))
        dptr<const uint> words = dptr<const uint>(w);
        vint some[3]; some[0] = vint(lane); some[1] = 0; some[2] = -vint(lane);
        dot_rows<4, 2>(some, words + 1, 32, words + 9, 5, lane); ROW(vfloat(some[0])) ROW(vfloat(some[1])) ROW(vfloat(some[2]))
        dot_rows<8, 2>(some, words, 32, words + 2, 4, lane); ROW(vfloat(some[0])) ROW(vfloat(some[1])) ROW(vfloat(some[2]))
        dot_rows<4, 6>(some, words, n, words + 7, 4, lane); ROW(vfloat(some[0])) ROW(vfloat(some[1])) ROW(vfloat(some[2]))
        dot_rows<8, 7>(some, words, n, words + 1, 6, lane); ROW(vfloat(some[0])) ROW(vfloat(some[1])) ROW(vfloat(some[2]))
        ROW(join<8, 16>(x, z, x + z, x - z, lane)) ROW(join<16, 0>(x, z, x, z, lane)) ROW(join<32, 0>(z, z, z, z, lane))
        ROW(select(vfloat(0.0f), join<4, 8>(x, z, x + z, x - z, lane), lane < 16))
        ROW(vfloat(ld(dptr<const half>(w), spread<2, 12, 1, 1, 0, 2, 16>(lane) + 3, first(lane, 16))))
        ROW(vfloat(ld(dptr<const half>(w), spread<2, 11, 0, 1, 0, 2, 16>(lane) + 3, first(lane, n))))
        ROW(vfloat(ld(dptr<const half>(w), spread<2, 10, 1, 1, 0, 2, 16>(lane) + 3)))
        ROW(vfloat(ld(dptr<const half>(w), spread<2, 0>(lane) + 5))) ROW(vfloat(ld(dptr<const half>(w), spread<32, 0, 0>(lane) + 7)))
        ROW(vfloat(simd_max(vint(x * 100.0f)))) ROW(exp2(min(x, vfloat(0.0f)) * 2000.0f)) ROW(exp2(select(x, vfloat(-INFINITY), x > z)))
        tptr<char> bytes = tptr<char>(shared); st(bytes, lane + 4, vint(x * 5000.0f)); SG_BARRIER;
        st(bytes, lane + 4, vint(lane) * 9, first(lane, n)); SG_BARRIER;
        s = ld(tptr<const char>(shared), lane + 4); ROW(vfloat(s)) SG_BARRIER;
        if (simd_any(x > 100.0f)) ROW(x) else ROW(z)
        if (simd_all(abs(x) < 100.0f)) ROW(x) else ROW(z)
        shared[lane] = x; SG_BARRIER; ROW(vfloat(shared[31 - vint(lane)])) SG_BARRIER;
        shared[lane] = x; shared[lane + 32] = z; SG_BARRIER;
        tile<8> m; fill(m, 1.0f); mma(m, a, 8, shared, 8, 4); scale_rows(m, shared, lane); store(m, y + 32 * r, 32);
        r += 8;
        st(h, lane, x); st(h, lane + 32, z, first(lane, n)); st(h, lane * 2 + 60, x, lane > 1); st(e, lane, x);
        st(e, lane + 32, z, first(lane, n));
    }
}
"""


def kernel(**options):
    return Kernel(
        "ops",
        text=OPS,
        inputs=[("a", "float"), ("w", "ushort"), ("t", "int")],
        ints=["n"],
        shared=64,
        defines={"SGS": 1},
        outputs=[("y", "float"), ("h", "half"), ("e", "bfloat16_t")],
        **options,
    )


def data():
    rng = np.random.default_rng(4)
    a = rng.standard_normal(200).astype(np.float32)
    w = rng.standard_normal(200).astype(np.float16).view(np.uint16)
    return a, w, rng.integers(0, 100, 64).astype(np.int32)


N = 13
FOURS = np.array([3, 255, 4, 128, 5, 9, 200, 6, 15, 35, 55, 80, 127, 7, 0, 99])
SIXTEEN = np.array([3, -1, 4, 1, -5, 9, 2, -6, 5, 3.5, 5.5, 8, 9.5, -7, 9.25, 0.5], np.float32)


def dot_rows(w, bits, stride, at, rows, numbers, apart):
    """What dot_rows of the dialect adds, [3, 32]: codes from word `at` on, numbers from word `numbers` on."""
    w, row = w.view(np.uint32), at + np.minimum(np.arange(32), rows - 1) * stride
    codes = [w[row + j] if bits == 8 else w[row + j // 2] >> (j % 2 * 4) & 0x0F0F0F0F for j in range(8)]
    of = lambda i, j: w[numbers + (2 * i + j % 2) * apart + j // 2:][:1].view(np.int8).astype(int)
    return np.stack([sum(c.reshape(32, 1).view(np.uint8) @ of(i, j) for j, c in enumerate(codes)) for i in range(3)])


def expected():
    """The same rows in NumPy."""
    a, w, t = data()
    i, x, z = np.arange(32), a[:32], a[32:64]
    lo = lambda k: w.view(np.float16)[k].astype(np.float32)
    bf = lambda k: (w[k].astype(np.uint32) << 16).view(np.float32)
    four = w[2:10].view(np.uint32)[[2, 0, 3, 1]]
    four = (four >> np.array([4, 0, 9, 2], np.uint32) & np.array([0x7F7F7FFF, ~0 & 0xFFFFFFFF, 0xFF, ~0 & 0xFFFFFFFF], np.uint32) | four).view(np.uint8)
    first = lambda v, n: np.where(i < n, v, 0)
    full = lambda v: np.full(32, v)
    p, p2, bytes_ = i // 4 * 9 + i % 4 * 2 + 1, i // 8 * 17 + i % 8 * 2 + 1, w.view(np.uint8)
    at = lambda k: (bytes_[k] + 256 * bytes_[k + 1].astype(np.uint16)).astype(np.uint16).view(np.float16).astype(np.float32)
    quad = lambda k: np.stack([a[k + j] for j in range(4)])
    q, q2 = quad(i * 4), quad(np.where(i < 23, i // 4 * 20 + i % 4 * 4 + 4, 0))
    f16 = lambda v: v.astype(np.float16).astype(np.float32)
    multiplier = np.uint32(int(t[5]) * 0x01FD0703 & 0xFFFFFFFF)
    picked = bytes_[3 + (bytes_[4:132].reshape(32, 4) & 15)].astype(int)
    fours = FOURS[bytes_[4:132].reshape(32, 4) & 15]
    rows = [
        x + z * 2,
        x - z / 3,
        np.maximum(x, z) * np.minimum(x, z),
        np.where(x > z, z, x),
        np.where(~(x > 0) | (z < 0.5) & (i < 20), z, x),
        abs(x),
        np.rint(x * np.float32(10)),
        np.exp2(x * np.float32(30)),
        np.sqrt(abs(x)),
        full(x.sum()),
        full(x.max()),
        full(x.min()),
        full(x[N]),
        x[(i * 7 + 3) % 32],
        x[i ^ 5],
        np.trunc(x * np.float32(100)),
        (i * 3) >> 2,
        (i << 3 ^ 21) & 31,
        t[:32] % 5,
        full(t[7] * lo(3)),
        first(a[i + N], N),
        first(a[np.where(i < 17, i * 3, 0)], 17),
        np.where(i % 3 == 1, a[i * 2], 0),
        a[i // 4 * 5 + i % 4 + 2],
        first(a[i // 4 * 5 + i % 4 + 2], 22),
        a[(i * 3 + 2) // 4],
        first(a[i // 8 + N], N),
        lo(p),
        lo(p + 1),
        bf(p),
        bf(p + 1),
        lo(i // 4 * 17 + i % 4 * 2 + 12),
        lo(i // 4 * 17 + i % 4 * 2 + 13),
        lo(i // 4 * 17 + 3),
        first(lo(i // 4 * 9 + i % 4 * 2 + 2), 20),
        first(lo(i // 4 * 9 + i % 4 * 2 + 3), 20),
        np.where(i % 16 < 10, lo(i % 16 // 2 * 9 + 1), 0),
        lo(i % 16 // 8 * 16 + i % 4 * 4 + 66),
        lo(i % 16 // 8 * 16 + i % 4 * 4 + 67),
        lo(3 * i + 11),
        first(lo(p2), 21),
        first(lo(p2 + 1), 21),
        lo(i // 8 * 17 + 2),
        first(lo(i + N), N),
        bf(i + N),
        first(bf(i // 4 * 9 + i % 4 + 1), 31),
        first(bytes_[i + N], 30),
        bytes_.view(np.int8)[i + N],
        first(w.view(np.int16)[i + 1], N),
        q[0],
        q[1],
        q[2] + q[3] * 2,
        first(q2.sum(0), 23),
        first(lo(np.minimum(i, 29) * 4) - lo(np.minimum(i, 29) * 4 + 3), 30),
        -x,
        f16(x) + f16(z),
        lo(i * 4 + 6),
        lo(i * 4 + 13),
        lo(i * 5 + 3),
        lo(i * 5 + 6),
        first(lo(np.minimum(i, N) * 3), N),
        SIXTEEN[t[:32] & 15],
        a[i // 16 * 20 + (i % 4 * 3 + 1) // 2 + 2],
        bytes_[i // 4 * 17 + 3],
        first(bytes_.view(np.int8)[i // 8 * 5 + i % 8 + 1], 27),
        first(bytes_[i // 8 * 40 + i % 8 % 3 * 2 + N], N),
        first(at(i // 4 * 17 + i % 4 * 4 + 1), 24),
        first(at(i // 4 * 17 + i % 4 * 4 + 3), 24),
        at(i * 9 + 5),
        at(i * 9 + 15),
        i * 1000 + (bytes_[8:136].reshape(32, 4).astype(int) * np.array([multiplier], np.uint32).view(np.int8)).sum(1),
        i * 1000 + (bytes_[8:136].reshape(32, 4).view(np.int8).astype(int) * np.array([multiplier], np.uint32).view(np.uint8)).sum(1),
        fours[:, 0] + 256 * fours[:, 1],
        fours[:, 2] + 256 * fours[:, 3],
        picked[:, 0] + 256 * picked[:, 1],
        picked[:, 2] + 256 * picked[:, 3],
        x[(i * 5 + 2) % 16],
        np.where(0xFFFF5A5A >> i & 1, x + z, x),
        np.where(0xAAAA >> i & 1, x + z, x),
        x[i & 30] - z[i | 1],
        *(first(np.where(i % 2, of(20 + i % 16 // k), of(3 + i % 16 // k)), m)
          for of, k, m in ((lo, 2, 16), (lo, 4, 16), (bf, 8, 16), (lo, 4, N), (a.__getitem__, 8, 16))),
        four[i * 7 % 16],
        four[i % 16] * 65537.0,
        *np.cumsum([np.stack([i, 0 * i, -i]) + dot_rows(w, 4, 2, 1, 32, 9, 5), dot_rows(w, 8, 2, 0, 32, 2, 4),
                    dot_rows(w, 4, 6, 0, N, 7, 4), dot_rows(w, 8, 7, 0, N, 1, 6)], axis=0).reshape(12, 32),
        np.concatenate([v[16:24] for v in (x, z, x + z, x - z)]),
        np.concatenate([x[:16], z[:16]]),
        z,
        np.concatenate([v[8:12] for v in (x, z, x + z, x - z)] + [np.zeros(16, np.float32)]),
        first(lo(i % 16 // 2 * 12 + i % 2 + 3), 16),
        first(lo(i % 16 // 2 * 11 + 3), N),
        lo(i % 16 // 2 * 10 + i % 2 + 3),
        lo(i % 2 + 5),
        full(lo(7)),
        full(np.trunc(x * np.float32(100)).max()),
        np.exp2(np.minimum(x, 0) * np.float32(2000)),
        np.exp2(np.where(x > z, np.float32(-np.inf), x)),
        np.where(i < N, i * 9, np.trunc(x * np.float32(5000)).astype(np.int64)).astype(np.int8),
        z,
        x,
        x[31 - i],
    ]
    b = np.stack([a[4 * k : 4 * k + 32] for k in range(8)])
    rows += list((1 + a[:64].reshape(8, 8) @ b) * x[:8, None])
    h = np.zeros(124, np.float32)
    h[:32], h[32 : 32 + N] = x, z[:N]
    h[64:124:2] = x[2:]
    return np.stack([np.asarray(r, np.float32) for r in rows]), f16(h), np.concatenate([x, z[:N]])


WRITTEN = np.r_[0 : 32 + N, 64:124:2]  # of h; the rest is never stored


def check(y, h, e, tolerance=3e-7):
    rows, half, plain = expected()
    for r, (got, want) in enumerate(zip(np.asarray(y).reshape(-1, 32), rows, strict=True)):
        assert relative(got, want) <= max(tolerance, 1e-6 if r == 7 else 0), (r, got, want)
    assert np.array_equal(np.asarray(h, np.float32)[WRITTEN], half[WRITTEN])
    assert relative(np.asarray(e, np.float32)[: 32 + N], plain) < 3e-3
    bits = plain.view(np.uint32)
    assert np.array_equal(
        np.asarray(e, np.float32)[: 32 + N].view(np.uint32) >> 16, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    )


@needs_compiler
@pytest.mark.parametrize(
    "form,checked",
    [
        ("native", False),
        ("native", True),
        *(pytest.param(f, c, marks=[pytest.mark.slow] * (c or f == "portable")) for f in list(FORMS)[1:] for c in (False, True)),
    ],
)
def test_host(form, checked):
    k = kernel(on="host", flags=FORMS[form], checked=checked)
    before = library.used["ops", "host"]
    y, h, e = k([mx.array(a) for a in data()], [(len(expected()[0]), 32), (124,), (64,)], (1, 1, 1), (N,))
    check(y, h, e.astype(mx.float32))
    assert library.used["ops", "host"] == before + 1


@needs_compiler
@pytest.mark.parametrize(
    "step",
    [
        "a[lane + 170]",
        "a[vint(lane) * 7]",
        "ld(a, lane, first(lane, 32)) + ld(a, lane + 180, first(lane, 21))",
        "a[spread<4, 29>(lane)]",
        "vfloat(a[200])",
        "vfloat(a[-1])",
        "vfloat(shared[64])",
    ],
)
def test_checked_builds_find_a_wrong_index(step):
    text = (
        f"KERNEL wrong(dptr<const float> a, dptr<float> y, GRID) {{ SIMDGROUPS {{ vfloat v = {step}; y[lane] = v; }} }}"
    )
    k = Kernel(
        "wrong",
        text=text,
        inputs=[("a", "float")],
        outputs=[("y", "float")],
        defines={"SGS": 1},
        shared=64,
        checked=True,
        on="host",
    )
    with pytest.raises((KernelError, RuntimeError), match="is outside a buffer of (200|64) elements"):
        mx.eval(k([mx.zeros((200,))], [(32,)], (1, 1, 1)))


@needs_simulator
def test_metal():
    gate = Gate(kernel(on="metal"), data(), [(len(expected()[0]), 32), (124,), (64,)], (1, 1, 1), (N,))
    rows, half, plain = expected()
    assert gate.text() == gate.run().generated
    assert not gate.report.errors, str(gate.report)
    y, h, e = gate.outputs
    e = e if e.dtype == np.float32 else (e.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    check(y, h, e, 1e-6)
    assert gate.strict(8) == ""
