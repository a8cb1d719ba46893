"""Page format q3: K before RoPE in 3.25 bits, calibrated on the model (`mlxr calibrate`); V rotated, in 3 bits."""

from dataclasses import dataclass
from typing import ClassVar

from .calibrated import Calibrated
from .lloyd import Lloyd


@dataclass(frozen=True)
class K(Calibrated):
    bits: float = 3.25


class V(Lloyd):
    width: ClassVar[int] = 3
    loads: ClassVar[int] = 3
