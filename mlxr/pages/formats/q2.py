"""Page format q2: K before RoPE in 2 bits, calibrated on the model (`mlxr calibrate`); V rotated, in 2 bits."""

from dataclasses import dataclass
from typing import ClassVar

from .calibrated import Calibrated
from .lloyd import Lloyd


@dataclass(frozen=True)
class K(Calibrated):
    bits: float = 2


class V(Lloyd):
    width: ClassVar[int] = 2
    loads: ClassVar[int] = 2
