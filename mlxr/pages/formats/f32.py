"""Page format f32: K and V as IEEE single precision numbers."""

import mlx.core as mx

from .plain import PlainFormat


class Format(PlainFormat):
    name = "f32"
    bits = 32
    dtype = mx.float32
    header = "formats/f32.h"
