"""Macs with Apple silicon: memory sizes, memory bandwidth and GPU of each chip, and how much of the memory a GPU may use.

Bandwidth and largest memory are Apple's published figures, looked up in November 2026 in its announcements or in reports that
quote them:
M1 Pro, Max  apple.com/newsroom/2021/10/introducing-m1-pro-and-m1-max-the-most-powerful-chips-apple-has-ever-built (the Max: nearly 6
             times the M1, for which Apple names no figure; 68.25 is LPDDR4X-4266 on 128 bits, and the M2 has "50 % more")
M1, M2 Ultra apple.com/newsroom/2023/06/apple-introduces-m2-ultra (800, twice the M2 Max; the M1 Ultra is two M1 Max)
M2           macrumors.com/2022/06/06/apple-announces-m2-chip-with-support-for-up-to-24gb-memory (100)
M3 family    gigazine.net/gsc_news/en/20231101-apple-m3-pro-memory-bandwidth (M3 Pro 150, M1 Pro and M2 Pro 200)
M3 Ultra     512pixels.net/2025/03/mac-studio-what-is-happening, techpowerup.com/news-tags/Mac%20Studio (819; up to 512 GB)
M4 family    neowin.net/news/apple-launches-new-m4-pro-and-m4-max-processors (120, 273, 546); the smaller Max: Macworld, March 2025 (410)
M5           the-decoder.com/apples-m5-chip-brings-faster-ai-to-macbook-ipad-and-vision-pro (153)
M5 Pro, Max  allyoucantech.com/?p=178375 (307, 614); the smaller Max: cputronic.com/cpu/apple-m5-max-32-core-gpu (460)
No M5 Ultra is listed: only rumours of one were found. Memory sizes between the smallest and the largest are those that these
Macs were sold with, some of them for a time only.

What a GPU may use: reports of recommendedMaxWorkingSetSize. 10.67 GiB of 16 (github.com/exo-explore/exo/pull/1672, macOS 15), 3/4 on larger
Macs (github.com/gpustack/gpustack/issues/1375); on newer systems 11.84 of 16 (github.com/AlexsJones/llmfit/pull/754) and 107.52 of 128
(github.com/antirez/ds4/pull/893): the table takes the lower ones.

TFLOPS: Apple's own figures for the M1 and M2 families; for later ones Apple gives none, so they are estimated as GPU cores x 128 lanes x
2 x a clock of 1.4 GHz (M3), 1.5 (M4) or 1.6 (M5), the M5's neural accelerators counted as 4 times that (Apple: over 4 times the M4's
peak GPU compute for AI).
"""

from dataclasses import dataclass

GIB = 1 << 30
SOURCES = ("memory and bandwidth: Apple's published figures, as announced or reported (mlxr/planning/macs.py names the pages)",
           "GPU TFLOPS: Apple's figures for M1 and M2; estimated from cores and clock for M3 to M5 (marked ~)",
           "memory that a GPU may use: 2/3 up to 32 GB, 3/4 above, as Metal's recommendedMaxWorkingSetSize was on these "
           "Macs; newer macOS versions give more (11.8 GiB of 16, 107.5 of 128), and a Mac is asked itself")


@dataclass(frozen=True)
class Chip:
    """bandwidth: GB/s (10^9 bytes). tflops: of 16-bit matrix products, 10^12 a second; guessed: not Apple's own figure."""

    name: str
    bandwidth: float
    tflops: float
    memory: tuple
    guessed: bool = False

    @property
    def ridge(self):
        """Operations a byte from which arithmetic, not memory, limits a kernel."""
        return self.tflops * 1e12 / (self.bandwidth * 1e9)


def _guess(name, bandwidth, cores, ghz, memory, factor=1):
    return Chip(name, bandwidth, round(cores * 256 * ghz / 1e3 * factor, 1), memory, True)


CHIPS = (
    Chip("M1", 68.25, 2.6, (8, 16)), Chip("M1 Pro", 200, 5.2, (16, 32)), Chip("M1 Max", 400, 10.4, (32, 64)),
    Chip("M1 Ultra", 800, 20.8, (64, 128)),
    Chip("M2", 100, 3.6, (8, 16, 24)), Chip("M2 Pro", 200, 6.8, (16, 32)), Chip("M2 Max", 400, 13.6, (32, 64, 96)),
    Chip("M2 Ultra", 800, 27.2, (64, 128, 192)),
    _guess("M3", 100, 10, 1.4, (8, 16, 24)), _guess("M3 Pro", 150, 18, 1.4, (18, 36)),
    _guess("M3 Max 30-core GPU", 300, 30, 1.4, (36, 96)), _guess("M3 Max 40-core GPU", 400, 40, 1.4, (48, 64, 128)),
    _guess("M3 Ultra", 819, 80, 1.4, (96, 256, 512)),
    _guess("M4", 120, 10, 1.5, (16, 24, 32)), _guess("M4 Pro", 273, 20, 1.5, (24, 48, 64)),
    _guess("M4 Max 32-core GPU", 410, 32, 1.5, (36,)), _guess("M4 Max 40-core GPU", 546, 40, 1.5, (48, 64, 128)),
    _guess("M5", 153, 10, 1.6, (16, 24, 32), 4), _guess("M5 Pro", 307, 20, 1.6, (24, 48, 64), 4),
    _guess("M5 Max 32-core GPU", 460, 32, 1.6, (36,), 4), _guess("M5 Max 40-core GPU", 614, 40, 1.6, (48, 64, 128), 4),
)


def working_set(memory):
    """Bytes that a GPU may use of a Mac with `memory` GB."""
    return memory * GIB * 2 // 3 if memory <= 32 else memory * GIB * 3 // 4


def chip_named(brand, memory):
    """The Chip of a Mac's brand string ("Apple M3 Max") and memory in GB; None where it is not in the table."""
    name = brand.removeprefix("Apple ").strip()
    fitting = [c for c in CHIPS if c.name == name or c.name.startswith(name + " ") and "core" in c.name]
    return next((c for c in fitting if memory in c.memory), fitting[0] if fitting else None)
