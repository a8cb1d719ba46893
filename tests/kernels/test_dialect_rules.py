"""What the dialect's rules forbid does not compile for the host; what they allow compiles there and for Metal."""

import shutil
import subprocess

import pytest
from kernels.gate import needs_simulator, simulator

from mlxr.kernels import host_build
from mlxr.kernels.library import Kernel

COMPILERS = [c for c in ("g++", "g++-11", "clang++", "clang++-14", "clang++-19") if shutil.which(c)]
FORBIDDEN = {
    "a uniform from a varying": "float s = a[lane];",
    "a branch on a varying": "vfloat s = a[lane]; if (s > 0.0f) b[lane] = s;",
    "a branch on a lane": "if (lane == 0) b[lane] = 1.0f;",
    "a varying loop bound": "vint k = lane * 2; for (int i = 0; i < k; ++i) b[lane] = 0.0f;",
    "?: on a varying": "vfloat s = a[lane]; s = s > 0.0f ? s : vfloat(0.0f);",
    "a varying stored to one address": "vfloat s = a[lane]; b[0] = s;",
    "a uniform stored by all lanes": "b[0] = 1.0f;",
    "int to float unsaid": "vint i = lane; vfloat s = i;",
    "float to int unsaid": "vfloat s = a[lane]; vint i = s;",
    "a store to an input": "a[lane] = vfloat(1.0f);",
    "a plain store to 16 bits": "dptr<half> h = dptr<half>(b); h[lane] = vfloat(1.0f);",
    "and of two varyings with a uniform result": "vbool m = a[lane] > vfloat(0.0f); bool u = m;",
    "a pointer of a wrong type": "dptr<float> c = a;",
    "device memory as a plain pointer": "float* c = b;",
}
ALLOWED = {
    "simd_sum is uniform": "float s = simd_sum(a[lane]); if (s > 0.0f) b[lane] = vfloat(s);",
    "simd_any is uniform": "vfloat s = a[lane]; if (simd_any(s > 0.0f)) b[lane] = s;",
    "select": "vfloat s = a[lane]; b[lane] = select(vfloat(0.0f), s, s > 0.0f);",
    "gather and scatter": "vint i = lane * 3; vfloat s = a[i]; b[i] = s;",
    "a uniform load": "float s = a[n]; b[lane] = vfloat(s);",
    "a uniform mixed into a varying": "vfloat s = a[lane]; b[lane] = s * 2.0f + float(n);",
    "masks": "vfloat s = ld(a, lane + n, first(lane, n)); st(b, lane, s, lane < n); st(b, lane, s, vint(lane) > 3);",
    "spread": "vfloat s = a[spread<4, 5>(lane) + 1]; b[lane] = s;",
    "narrow stores": "dptr<half> h = dptr<half>(b); st(h, lane, vfloat(1.0f)); "
    "st(h, lane + n, vfloat(2.0f), first(lane, 1));",
    "quads": "vfloat4 v = ld4(a, lane * 4, first(lane, n)); b[lane] = sum(v);",
    "words of 16-bit units": "vuint w = ld_pair(dptr<const ushort>(a), spread<8, 17, 2>(lane) + 1, first(lane, 32)); "
    "b[lane] = half_lo(w);",
    "units that are held": "held<136> h = ld_held<136>(dptr<const ushort>(a), 136); vuint w = ld_pair(h, spread<4, 17, 2>(lane)); "
    "b[lane] = half_lo(w) + ld_half(h, spread<4, 17, 0>(lane));",
    "bits": "vuint w = as_uint(vfloat(a[lane])); b[lane] = as_float((w << 16) | (w >> 16)) + bfloat_lo(w);",
    "shuffles": "vfloat s = a[lane]; s += simd_shuffle_xor(s, 1); "
    "b[lane] = s * simd_broadcast(s, n) + simd_shuffle(s, 31 - vint(lane));",
    "threadgroup memory": "shared[lane] = vfloat(a[lane]); TG_BARRIER; b[lane] = vfloat(shared[lane]) * shared[0];",
    "state across phases": "KEEP(vfloat, s); SIMDGROUPS { s[MINE] = a[lane]; } TG_BARRIER; "
    "SIMDGROUPS { b[lane + sg * 32] = s[MINE]; }",
    "matrices": "tile<8> t; fill(t, 0.0f); mma(t, a, n, shared, 8); scale_rows(t, shared, lane); store(t, b, n);",
    "arrays by unrolled loops": "vfloat s[4]; UNROLL for (int i = 0; i < 4; ++i) s[i] = a[lane + 32 * i]; "
    "b[lane] = s[0] + s[3];",
}


def text(body):
    return f"KERNEL rules(dptr<const float> a, dptr<float> b, int n, GRID) {{ {body} }}"


def kernel(body, on):
    return Kernel(
        "rules",
        text=text(body),
        inputs=[("a", "float")],
        outputs=[("b", "float")],
        ints=["n"],
        defines={"SGS": 2},
        shared=512,
        on=on,
    )


def compiles(cxx, body, flags=()):
    command = [cxx, *host_build.kernel_flags(), *flags, "-w", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(command, input=kernel(body, "host").host_text(), capture_output=True, text=True)


@pytest.mark.parametrize(
    "cxx", [c if c == COMPILERS[0] else pytest.param(c, marks=pytest.mark.slow) for c in COMPILERS]
)
@pytest.mark.parametrize("why", FORBIDDEN)
def test_forbidden_does_not_compile(cxx, why):
    assert compiles(cxx, FORBIDDEN[why]).returncode != 0


@pytest.mark.parametrize("cxx", COMPILERS)
def test_allowed_compiles_on_the_host(cxx):
    body = "\n".join(f"{{ {b} }}" for b in ALLOWED.values())
    for flags in ((), ("-march=haswell",), ("-DLANES_PORTABLE", "-DLANES_NO_AVX512"), ("-DLANES_CHECKED",)):
        if flags[:1] == ("-march=haswell",) and not host_is_x86():
            continue
        done = compiles(cxx, body, flags)
        assert done.returncode == 0, (flags, done.stderr[:2000])


def host_is_x86():
    return any("-march" in f for f in host_build.kernel_flags())


@needs_simulator
def test_allowed_compiles_for_metal():
    s = simulator()
    body = "\n".join(f"{{ {b} }}" for b in ALLOWED.values())
    header, call = kernel(body, "metal").metal_text()
    program, *_ = s.generate(
        "rules", ["a", "dims"], ["b"], call, header, False, [((64,), "float32"), ((8,), "int32")], ["float32"], []
    )
    assert s.strict_check(s.mlx_utils() + program, include=[s.mlx_include()], defines=["MLX_METAL_JIT"]) == ""
