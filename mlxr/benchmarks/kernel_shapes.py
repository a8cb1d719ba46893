"""Which kernels are measured at which shapes: those of real models, in three presets."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError
from . import kernel_cases as cases

PAGED = ("attend", "prefill")


@dataclass(frozen=True)
class Model:
    """Sizes of a model that decide its kernels' shapes."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
    vocabulary: int

    @property
    def matrices(self):
        """{name: (rows, columns)} of the weights as they are launched: q, k and v as one, gate and up as one."""
        return {"qkv": ((self.heads + 2 * self.kv_heads) * self.dim, self.hidden), "o": (self.hidden, self.heads * self.dim),
                "gate_up": (2 * self.inner, self.hidden), "down": (self.hidden, self.inner), "head": (self.vocabulary, self.hidden)}


MODELS = (Model("SmolLM2-135M", 576, 9, 3, 64, 1536, 49152), Model("Llama-3.2-1B", 2048, 32, 8, 64, 8192, 128256),
          Model("Qwen3-4B", 2560, 32, 8, 128, 9728, 151936), Model("Llama-3-8B", 4096, 32, 8, 128, 14336, 128256))
SMALL, ONE, FOUR, EIGHT = MODELS


@dataclass(frozen=True)
class Planned:
    """A case to be built: kernel, model's name, shape in words, bytes of memory that it needs, and how to build it."""

    kernel: str
    model: str
    shape: str
    memory: float
    build: Callable


def gemv(model, matrix, batch=1, kind="Q4_1"):
    n, k = model.matrices[matrix]
    return Planned("q_gemv", model.name, f"{matrix} {n}x{k} {kind}, batch {batch}", _weights(n, k), lambda: cases.gemv(kind, batch, n, k))


def gemm(model, matrix, batch, kind="Q4_1"):
    n, k = model.matrices[matrix]
    return Planned("q_gemm", model.name, f"{matrix} {n}x{k} {kind}, batch {batch}", _weights(n, k) + 24.0 * batch * n,
                   lambda: cases.gemm(kind, batch, n, k))


def corrected(size, batch=1, rank=128):
    """A square matrix of mlxr convert --caldera."""
    kernel = "q_gemv" if batch <= 3 else "q_gemm"
    return Planned(kernel, "", f"{size}x{size} affine3_64 + rank {rank}, batch {batch}", _weights(size, size + 2 * rank) + 24.0 * batch * size,
                   lambda: cases.corrected(batch, size, size, rank))


def gemm_int8(model, matrix, batch, kind="Q4_1"):
    n, k = model.matrices[matrix]
    return Planned("q_gemm_int8", model.name, f"{matrix} {n}x{k} {kind}, batch {batch}", _weights(n, k) + 24.0 * batch * n,
                   lambda: cases.gemm_int8(kind, batch, n, k))


def split(model, rows):
    return Planned("int8_split", model.name, f"{rows} rows of {model.hidden}", 2e8, lambda: cases.splitting(model, rows))


def rows(model, count, kind="Q4_1"):
    n, k = model.matrices["head"]
    return Planned("q_rows", model.name, f"{count} of {n}x{k} {kind}", _weights(n, k), lambda: cases.embedding(kind, count, n, k))


def attend(model, context, batch=1, kv="f16", new=1):
    return Planned("attend" if new <= 8 else "prefill", model.name, f"context {context}, batch {batch}, new {new}, {kv}",
                   _cache(model, context, batch, new), lambda: cases.attention(model, kv, context, batch, new))


def prefill(model, context, kv="f16"):
    return attend(model, context, 1, kv, min(context, 512))


def merge(model, batch=1, units=8):
    return Planned("merge", model.name, f"{batch} tokens x {model.heads} heads, {units} units", 1e8, lambda: cases.merging(model, batch, units))


def seal(model, pages=8, kv="f16"):
    return Planned("seal", model.name, f"{pages} pages of 64, {kv}", 5e8, lambda: cases.sealing(model, kv, pages))


def rope(model, tokens):
    return Planned("rope", model.name, f"{tokens} tokens", 5e8, lambda: cases.rotation(model, tokens))


def norm(model, rows):
    return Planned("rms_norm", model.name, f"{rows} rows of {model.hidden}", 2e8, lambda: cases.norming(model, rows))


def draw(model, rows):
    return Planned("draw", model.name, f"{rows} rows of {model.vocabulary}", 4 * 8.0 * rows * model.vocabulary,
                   lambda: cases.drawing(model, rows))


def read_bound(mib=256):
    return Planned("read_bound", "", f"{mib} MiB", mib * 3e6, lambda: cases.reading(mib << 20))


def _weights(n, k):
    """Bytes for the copies, MLX's form, and the part that the twin decodes."""
    return 2.0 * max(cases.COLD, n * k * 0.7) + n * k * 1.5 + 3 * 4 * k * min(n, cases.CHECKED_ROWS) * 2


def _cache(model, context, batch, new):
    token = 2 * model.kv_heads * model.dim
    stored = max(cases.COLD, 2.0 * context * batch * token)
    return 2 * stored + 4 * 4.0 * context * batch * token * 2 + 8.0 * model.heads * new * batch * context


def plans(preset, kernels=()):
    """The Planned cases of a preset, of these kernels alone where some are named. Raises ConfigError for unknown names."""
    every = list({"tiny": _tiny, "quick": _quick, "full": _full}[preset]())
    known = sorted({p.kernel for p in every})
    for name in kernels:
        if name not in known:
            raise ConfigError(f"--kernels {name}: there are {', '.join(known)}")
    return [p for p in every if not kernels or p.kernel in kernels]


def _tiny():
    yield read_bound(64)
    yield gemv(SMALL, "qkv")
    yield gemm(SMALL, "o", 16)
    yield rows(SMALL, 16)
    yield from (attend(SMALL, 512), prefill(SMALL, 512), merge(SMALL), seal(SMALL, 2), rope(SMALL, 1), norm(SMALL, 8), split(SMALL, 8), draw(SMALL, 1),
                gemm_int8(SMALL, "o", 8))


def _quick():
    yield read_bound()
    yield from (gemv(SMALL, m) for m in SMALL.matrices)
    yield from (gemv(SMALL, "gate_up", 1, kind) for kind in ("Q8_0", "Q4_0", "affine4_64"))
    yield from (gemv(m, "gate_up") for m in MODELS[1:])
    yield from (gemv(SMALL, "gate_up", b) for b in (2, 4))
    yield from (corrected(n) for n in (512, 2048))
    yield from (gemm(SMALL, "gate_up", b) for b in (8, 16, 512))
    yield gemm(ONE, "gate_up", 16)
    yield from (rows(SMALL, n) for n in (1, 512))
    yield from (attend(SMALL, c) for c in (512, 4096, 32768))
    yield from (attend(SMALL, 4096, b) for b in (4, 16))
    yield attend(SMALL, 4096, 1, "q8")
    yield from (attend(m, 4096) for m in MODELS[1:])
    yield from (prefill(SMALL, c) for c in (512, 4096))
    yield prefill(EIGHT, 4096)
    yield from (merge(SMALL), seal(SMALL), seal(EIGHT), seal(SMALL, 8, "q8"))
    yield from (rope(SMALL, n) for n in (1, 512))
    yield from (norm(SMALL, n) for n in (8, 512))
    yield from (draw(SMALL, n) for n in (1, 8))
    yield from (gemm_int8(SMALL, "gate_up", n) for n in (2, 8, 16))
    yield split(SMALL, 8)


def _full():
    contexts, batches = (512, 1024, 2048, 4096, 8192, 16384, 32768), (1, 2, 4, 8, 16)
    yield read_bound()
    yield from (corrected(n, b) for n in (512, 1024, 2048, 4096, 8192) for b in (1, 64))
    for model in MODELS:
        for matrix in model.matrices:
            yield from (gemv(model, matrix, 1, kind) for kind in ("Q4_1", "Q4_0", "Q8_0", "F16", "affine4_64"))
            yield from (gemv(model, matrix, b) for b in batches[1:] if b <= 8)
            yield from (gemm(model, matrix, b) for b in (8, 16, 64, 512))
        yield from (rows(model, n) for n in (1, 16, 512))
        yield from (attend(model, c, b) for c in contexts for b in batches)
        yield from (attend(model, c, 1, "q8") for c in contexts)
        yield from (attend(model, 4096, 1, "f16", n) for n in (2, 4, 8))
        yield from (prefill(model, c) for c in contexts)
        yield from (merge(model, b, u) for b in (1, 16) for u in (2, 8))
        yield from (seal(model, n, kv) for n in (1, 8) for kv in ("f16", "bf16", "f32", "q8"))
        yield from (rope(model, n) for n in (1, 16, 512))
        yield from (norm(model, n) for n in (1, 16, 512))
        yield from (draw(model, n) for n in (1, 8))
        yield from (gemm_int8(model, m, n) for m in model.matrices for n in (2, 8, 16))
        yield split(model, 8)
