"""Page format f16: K and V as IEEE half precision numbers."""

import mlx.core as mx

from .plain import Plain


class K(Plain):
    kind, header, per, dtype = "K", "formats/f16.h", 2, mx.float16


class V(Plain):
    kind, header, per, dtype = "V", "formats/f16.h", 2, mx.float16
