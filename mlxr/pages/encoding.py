"""What an encoding of K or of V is: the base of the classes K and V that each file of formats/ defines."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx


def stages(d):
    """log2 of the largest power of two that divides d: a head of d elements is rotated in blocks of that many."""
    return (d & -d).bit_length() - 1


def rotate(x):
    """x [..., d] under the orthonormal Walsh-Hadamard transform of blocks of 2^stages(d). It is its own inverse."""
    block = 1 << stages(x.shape[-1])
    if block == 1:
        return x
    parts = mx.contiguous(x.reshape(*x.shape[:-1], -1, block))
    return mx.hadamard_transform(parts, scale=block**-0.5).reshape(x.shape)


@dataclass(frozen=True)
class Encoding:
    """How K, or V, of one page and KV head lies in its part of a record. Fields of a subclass are its options.

    A lane reads a *group*: `loads` words that hold `per` numbers. K's groups are channels of a token: words
    [d / per][loads][page]. V's are the same of the transposed page where it is deep: tokens of a channel, words
    [page / per][loads][d]; else channels of a token, [page][d / per], in lines of 32, each line's first words before its
    second ones. Scales and the like follow. rotated: codes are of the rotated numbers (see `rotate`); kernels rotate q and
    the output.
    """

    kind: ClassVar[str] = ""            # "K" or "V"
    per: ClassVar[int] = 1
    loads: ClassVar[int] = 1
    deep: ClassVar[bool] = False        # V: a group is of one channel
    bytes: ClassVar[bool] = False       # its header has groups as bytes of small integers, for products of four at once
    rotated: ClassVar[bool] = False
    header: ClassVar[str | None] = None # of metal/include: how kernels read and write it
    shared: ClassVar[tuple] = ()        # headers that several formats share: they come after every format's own
    before_rope: ClassVar[bool] = False # K: stored before RoPE, so that encode and decode take `at` (see PageFormat)
    given_k: ClassVar[bool] = False     # V: where K is calibrated, stored less what K says of it (PageFormat.given)
    by_layer: ClassVar[bool] = False    # what a layer has in its place is known with the model's calibration (formats/fit.py)
    own_query: ClassVar[bool] = False   # K: q is brought into units of each page's codes, which takes a second copy of it

    @property
    def name(self):
        """Of the format: its module's name."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def label(self):
        """As a user writes it."""
        options = ",".join(f"{f.name}={getattr(self, f.name):g}" for f in self.options())
        return self.name + (":" + options if options else "")

    @property
    def on_kernels(self):
        """Whether there is code by which kernels read and write it."""
        return bool(self.header or self.shared)

    @classmethod
    def options(cls):
        """Fields that a user may give."""
        return [f for f in dataclasses.fields(cls) if f.compare]

    def defines(self, d):
        """Macros for the kernels, for heads of d elements."""
        k = self.kind
        deep = {"V_DEEP": self.per if self.deep else 1} if k == "V" else {}
        return {f"{k}_{self.name.upper()}": 1, f"{k}_PER": self.of_token, f"{k}_LOADS": self.loads,
                f"{k}_STAGES": stages(d) if self.rotated else 0, **deep}

    @property
    def of_token(self):
        """Numbers of one token in a group."""
        return 1 if self.deep else self.per

    def unfit(self, page, d):
        """Why pages of that many tokens, or heads of d elements, cannot be stored; None where they can."""
        if d % self.of_token:
            return f"heads of {d} elements, which are no multiple of {self.of_token}"
        if self.deep and page % self.per:
            return f"{page} tokens, which are no multiple of {self.per}: use a larger --page-size"
        if self.kind == "V" and not self.deep and self.loads > 1 and page * d // self.per % 32:
            return f"{page} tokens of {d} elements, which do not fill lines: use a larger --page-size"
        return None

    def words(self, page, d):
        """32-bit words of its part of a record."""
        raise NotImplementedError

    def table_bytes(self, heads, d, dv, page, pages):
        """Bytes that one layer keeps beside its pages, for sequences of so many: a calibration's tables."""
        return 0

    def seal_floats(self, page, d, simdgroups):
        """Floats of threadgroup memory that encoding it takes in the kernel."""
        return 0

    def read_floats(self, d, on):
        """Floats of threadgroup memory that decoding 32 tokens of K takes in attend and prefill, on a backend."""
        return 0

    def encode(self, x):
        """Words uint32 [..., words] of x [..., page, d] float32."""
        raise NotImplementedError

    def decode(self, words, page, d):
        """x float32 [..., page, d] of words uint32 [..., words]: what attention means by them."""
        raise NotImplementedError
