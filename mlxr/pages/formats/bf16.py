"""Page format bf16: K and V as bfloat16 numbers."""

import mlx.core as mx

from .plain import Plain


class K(Plain):
    kind, header, per, dtype = "K", "formats/bf16.h", 2, mx.bfloat16


class V(Plain):
    kind, header, per, dtype = "V", "formats/bf16.h", 2, mx.bfloat16
