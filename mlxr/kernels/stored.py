"""How kernels read each type of stored weights: the header in metal/include/quants/, element types and sizes."""

import functools
from dataclasses import dataclass

import mlx.core as mx

from ..errors import KernelError
from ..weights.quants import grids
from .host_call import ELEMENT_OF

AFFINE_BITS, AFFINE_GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)


@dataclass(frozen=True, eq=False)
class Stored:
    """A type of stored weights, as kernels see a matrix [N, K] of it.

    One object a type: compared by identity, which is what makes looking up a kernel cheap.
    header: of metal/include; defines: macros for it; arrays: ((name, element type), ...) of a matrix, in order;
    block: K is a multiple of it.
    bytes: q_gemv takes codes as bytes, for integer products (BYTES there), where that reads faster from memory.
    codes: bits of its codes where q_gemm_int8 takes them: types whose scales hold for 32 weights.
    grid: a type of the IQ family has a table beside its matrices, one for all of them, which `inputs` adds.
    """

    name: str
    header: str
    arrays: tuple
    defines: tuple = ()
    block: int = 32
    grid: bool = False
    codes: int = 0
    bytes: bool = False

    @property
    def parameters(self):
        """((name, element type), ...) of all that a kernel takes for a matrix: its arrays, and the grid."""
        return (*self.arrays, ("grid", "uint")) if self.grid else self.arrays

    def inputs(self, weights):
        """The arrays of `parameters` for a matrix's arrays."""
        return (*weights, _grid(self.name)) if self.grid else weights


@functools.lru_cache(None)
def _grid(name):
    table = mx.array(grids.packed_grid(name))
    mx.eval(table)
    return table


def _super(name, element="uint", **more):
    """A type with blocks of 256 weights."""
    more.setdefault("bytes", True)
    return Stored(name, f"quants/{name.lower()}.h", (("w", element),), block=256, **more)


def _plain(name, element):
    return Stored(name, "quants/plain.h", (("w", element),), (("WTYPE", element),))


TYPES = {
    t.name: t
    for t in (
        _plain("F32", "float"),
        _plain("F16", "half"),
        _plain("BF16", "bfloat16_t"),
        Stored("Q8_0", "quants/q8_0.h", (("w", "ushort"),), codes=8, bytes=True),
        Stored("Q4_0", "quants/q4_0.h", (("w", "ushort"),), codes=4, bytes=True),
        Stored("Q4_1", "quants/q4_1.h", (("w", "uint"),), codes=4, bytes=True),
        Stored("Q5_0", "quants/q5_0.h", (("w", "ushort"),), codes=5, bytes=True),
        Stored("Q5_1", "quants/q5_1.h", (("w", "uint"),), codes=5, bytes=True),
        *(_super(name) for name in ("Q2_K", "Q8_K")),
        _super("IQ4_XS", codes=8),
        _super("Q4_K", codes=4),
        _super("Q5_K", codes=5),
        *(_super(name, "ushort") for name in ("Q6_K", "Q3_K", "TQ1_0", "TQ2_0")),
        Stored("IQ4_NL", "quants/iq4_nl.h", (("w", "ushort"),), codes=8, bytes=True),
        Stored("MXFP4", "quants/mxfp4.h", (("w", "uchar"),), codes=5, bytes=True),
        *(_super(name, "ushort", grid=True) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")),
    )
}


@functools.lru_cache(None)
def affine(bits, group_size, scales=mx.float16):
    """MLX's affine format: uint32 codes [N, K * bits / 32], scales and offsets [N, K / group_size] of one dtype."""
    element = ELEMENT_OF.get(scales)
    if bits not in AFFINE_BITS or group_size not in AFFINE_GROUPS or element not in ("float", "half", "bfloat16_t"):
        raise KernelError(f"no kernel for affine weights of {bits} bits, group {group_size}, scales {scales}")
    return Stored(
        f"affine{bits}_{group_size}_{element}",
        "quants/affine.h",
        (("w", "uint"), ("scales", element), ("offsets", element)),
        (("BITS", bits), ("GROUP", group_size), ("STYPE", element)),
        group_size,
        codes=bits,
        bytes=True,
    )


def stored(name):
    """The Stored of a GGUF type name ("Q4_1"), or one as it is."""
    if isinstance(name, Stored):
        return name
    if name not in TYPES:
        raise KernelError(f"no kernel reads {name} weights; there are {', '.join(TYPES)} and MLX's affine format")
    return TYPES[name]


_WIDTHS = {mx.uint8: 1, mx.uint16: 2, mx.uint32: 4}


def arrays(weights, kind):
    """A matrix's arrays as its kernels take them. weights: one array or a tuple; blocks come as bytes or wider units.

    Do this once, when a model is built: bytes that are viewed as wider units cost a node in every graph otherwise.
    """
    kind, weights = stored(kind), (weights,) if isinstance(weights, mx.array) else tuple(weights)
    wanted = [
        {"float": mx.float32, "half": mx.float16, "bfloat16_t": mx.bfloat16, "uint": mx.uint32, "ushort": mx.uint16, "uchar": mx.uint8}[e]
        for _, e in kind.arrays
    ]
    if len(weights) != len(wanted):
        raise KernelError(
            f"{kind.name} weights are {len(wanted)} arrays ({', '.join(n for n, _ in kind.arrays)}), got {len(weights)}"
        )
    out = []
    for array, dtype in zip(weights, wanted):
        if array.dtype != dtype:
            if array.dtype not in _WIDTHS or dtype not in _WIDTHS:
                raise KernelError(f"{kind.name} weights are {dtype}, got {array.dtype}")
            array = array.view(dtype)
        out.append(array)
    return tuple(out)
