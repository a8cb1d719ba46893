"""Page format f32: K and V as IEEE single precision numbers."""

import mlx.core as mx

from .plain import Plain


class K(Plain):
    kind, header, per, dtype = "K", "formats/f32.h", 1, mx.float32


class V(Plain):
    kind, header, per, dtype = "V", "formats/f32.h", 1, mx.float32
