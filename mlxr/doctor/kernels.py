"""Every kernel against its twin on this machine."""

import time

import mlx.core as mx

from ..benchmarks import kernel_cases as cases
from ..benchmarks.kernel_shapes import SMALL, Model, Planned
from ..benchmarks.kernel_weights import KINDS
from ..kernels import library
from ..kernels.stored import TYPES
from ..pages import formats

LIMIT = {mx.float32: 1e-3, mx.float16: 2e-2, mx.bfloat16: 5e-2}     # relative L2 of a kernel's result from its twin's
TINY = Model("tiny", 512, 4, 2, 64, 768, 640)                       # sizes that every type of weights fills


def kernel_cases(every=False):
    """The Planned cases: each kernel at SmolLM2's sizes, and the page formats and types of weights that models mostly have;
    every: all of them."""
    yield _planned("read_bound", "1 MiB", lambda: cases.reading(1 << 20))
    yield _planned("rope", "3 tokens", lambda: cases.rotation(SMALL, 3))
    if library.backend() != "metal":             # there MLX's operations do what these are for
        yield _planned("rms_norm", "5 rows", lambda: cases.norming(SMALL, 5))
        yield _planned("draw", "3 rows", lambda: cases.drawing(SMALL, 3))
        yield _planned("int8_split", "5 rows", lambda: cases.splitting(SMALL, 5))
    yield _planned("merge", "2 tokens of 5 parts", lambda: cases.merging(SMALL, 2, 5))
    for name in formats.NAMES if every else ("f16", "q8", "q4"):
        yield _planned("attend", f"pages {name}", lambda f=name: cases.attention(SMALL, f, 448, 2, 1, most=1))
        yield _planned("prefill", f"pages {name}", lambda f=name: cases.attention(SMALL, f, 448, 1, 192, most=1))
        yield _planned("seal", f"pages {name}", lambda f=name: cases.sealing(SMALL, f, 2, most=1))
    for kind in KINDS if every else ("Q4_1", "affine4_64"):
        yield _planned("q_gemv", f"{kind} weights", lambda k=kind: cases.gemv(k, 1, TINY.vocabulary, TINY.inner, most=1))
        yield _planned("q_gemm", f"{kind} weights", lambda k=kind: cases.gemm(k, 19, TINY.vocabulary, TINY.inner, most=1))
        if kind in TYPES and TYPES[kind].codes and library.backend() != "metal":
            yield _planned("q_gemm_int8", f"{kind} weights", lambda k=kind: cases.gemm_int8(k, 5, TINY.vocabulary, TINY.inner, most=1))
        if kind not in ("F16", "affine4_64") or every:
            yield _planned("q_rows", f"{kind} weights", lambda k=kind: cases.embedding(k, 7, TINY.vocabulary, TINY.inner, most=1))


def _planned(kernel, what, build):
    return Planned(kernel, "", what, 0, build)


def examine(planned):
    """A dict: kernel, what, ok, error (relative L2 from the twin, None where it failed), why, seconds."""
    start, row = time.perf_counter(), {"kernel": planned.kernel, "what": planned.shape, "ok": False, "error": None, "why": ""}
    before = library.used[planned.kernel, library.backend()]
    try:
        row["error"] = max(distance(got, want) for got, want in planned.build().check())
        limit = LIMIT[cases.dtype()]
        if library.used[planned.kernel, library.backend()] == before:
            row["why"] = "it could not be built, and its twin ran in its place"
        elif not row["error"] <= limit:                              # also where it is no number
            row["why"] = f"its results are {row['error']:.1e} from the twin's, more than {limit:.0e}"
        row["ok"] = not row["why"]
    except Exception as e:      # whatever a compiler or a driver has to say
        row["why"] = f"it failed ({type(e).__name__}: {(str(e).splitlines() or [''])[0][:200]})"
    row["seconds"] = round(time.perf_counter() - start, 3)
    return row


def distance(got, want):
    """Relative L2 distance of two arrays, in fp32."""
    got, want = (a.astype(mx.float32) for a in (got, want))
    norm, off = mx.linalg.norm(want.reshape(-1)).item(), mx.linalg.norm((got - want).reshape(-1)).item()
    return off / norm if norm else off
