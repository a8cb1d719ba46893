"""Page format bf16: K and V as bfloat16 numbers."""

import mlx.core as mx

from .plain import PlainFormat


class Format(PlainFormat):
    name = "bf16"
    bits = 16
    dtype = mx.bfloat16
    header = "formats/bf16.h"
