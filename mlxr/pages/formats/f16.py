"""Page format f16: K and V as IEEE half precision numbers."""

import mlx.core as mx

from .plain import PlainFormat


class Format(PlainFormat):
    name = "f16"
    bits = 16
    dtype = mx.float16
    header = "formats/f16.h"

    def coded(self, backend):
        return backend == "host"
