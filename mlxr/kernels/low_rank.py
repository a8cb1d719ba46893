"""Corrections of low rank: what q_gemv and q_gemm take to compute y = Q x + L (R x), and how they read L."""

from dataclasses import dataclass

import mlx.core as mx

from .stored import Stored
from .twins import dequantize

STEP = 32        # ranks are multiples of it
_BITS = (4, 8)


@dataclass(frozen=True, eq=False)
class Correction:
    """L [N, rank] and R [rank, K]: arrays (stored.arrays) and types (Stored) of each. L is affine or F16, see `fits`."""

    left: tuple
    left_kind: Stored
    right: tuple
    right_kind: Stored
    rank: int

    @property
    def key(self):
        """What specialises a kernel."""
        return self.left_kind, self.rank

    def inputs(self, t):
        """What a kernel takes, with t = R x."""
        return [*self.left, t]

    def decoded(self, width):
        """float32 [N, K]: L R."""
        return dequantize(self.left, self.left_kind, self.rank) @ dequantize(self.right, self.right_kind, width)

    def joins(self, other):
        """Whether both use the same R, and have an L of the same type."""
        return self.left_kind is other.left_kind and all(a is b for a, b in zip(self.right, other.right))

    def joined(self, corrections):
        """One with the rows of all; each `joins` this one."""
        left = tuple(mx.concatenate(parts) for parts in zip(*(c.left for c in corrections)))
        return Correction(left, self.left_kind, self.right, self.right_kind, self.rank)


def fits(kind, rank):
    """Whether kernels read L of that type (a Stored) and rank."""
    how = dict(kind.defines)
    return rank % STEP == 0 and (kind.name == "F16" or kind.header == "quants/affine.h" and how["BITS"] in _BITS)


def headers(low):
    return ("low_rank.h",) if low else ()


def parameters(low, x_type):
    """((name, element type), ...) that a kernel takes for a correction's `key`; () for None."""
    if low is None:
        return ()
    names = ("left", "left_scales", "left_offsets")
    return (*((name, element) for name, (_, element) in zip(names, low[0].arrays)), ("t", x_type))


def defines(low):
    """Macros for the key; RANK is 0 for None."""
    if low is None:
        return {"RANK": 0}
    kind, rank = low
    if kind.name == "F16":
        return {"RANK": rank, "FACTOR": 16}
    how = dict(kind.defines)
    return {"RANK": rank, "FACTOR": how["BITS"], "FGROUP": how["GROUP"], "FTYPE": how["STYPE"]}


def floats(defines):
    """Of threadgroup memory that q_gemv, built with these macros, needs for each row of t: LOW_FLOATS there."""
    rank = defines["RANK"]
    return 6 * (rank // 8) + rank // defines["FGROUP"] + 1 if rank and defines["FACTOR"] < 16 else 0
