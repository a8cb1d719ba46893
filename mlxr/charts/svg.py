"""Charts as inline SVG: scales, frames, curves and bars. Colours come from the CSS of document.py."""

import math
from html import escape

WIDE, HIGH = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 18, 54
SERIES = 6      # classes s0 .. s5 of the page


class Axis:
    """A scale from values to pixels. ticks: [(value, text)]."""

    def __init__(self, low, high, start, end, ticks, log=False):
        self.low, self.ticks, self._log = low, ticks, log
        self._low, self._high = (math.log10(low), math.log10(high)) if log else (low, high)
        self._start, self._end = start, end

    def at(self, value):
        v = math.log10(max(value, self.low)) if self._log else value
        return self._start + (v - self._low) / ((self._high - self._low) or 1) * (self._end - self._start)


def linear(low, high, whole=False):
    step = next(s for s in (1, 2, 4, 5, 10, 20, 50, 100, 1000) if (high - low) / s <= 10)
    ticks = [(v, f"{v}") for v in range(int(low), int(high) + 1, step)]
    return Axis(low, high, LEFT + (10 if whole else 0), WIDE - RIGHT, ticks)


def decades(values, percent=False):
    """A log scale of whole decades around positive values."""
    first, last = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    last = max(last, first + 1)
    text = (lambda e: f"{10.0 ** (e + 2):g} %") if percent else (lambda e: f"{10.0 ** e:g}")
    return Axis(10.0 ** first, 10.0 ** last, HIGH - BOTTOM, TOP, [(10.0 ** e, text(e)) for e in range(first, last + 1)], log=True)


def frame(across, down, below, beside):
    """Grid, ticks and names of the axes."""
    parts = []
    for value, text in down.ticks:
        y = down.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in across.ticks:
        x = across.at(value)
        parts.append(f'<line class="tickmark" x1="{x:.1f}" x2="{x:.1f}" y1="{HIGH - BOTTOM}" y2="{HIGH - BOTTOM + 4}"/>'
                     f'<text class="tick" x="{x:.1f}" y="{HIGH - BOTTOM + 20}" text-anchor="middle">{text}</text>')
    middle = (TOP + HIGH - BOTTOM) / 2
    parts.append(f'<text class="axis" x="{(LEFT + WIDE - RIGHT) / 2}" y="{HIGH - 6}" text-anchor="middle">{escape(below)}</text>'
                 f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(beside)}</text>')
    return "".join(parts)


def svg(parts, title):
    return f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def legend(names):
    """The key of a chart's series, in their order."""
    return '<p class="legend">' + "".join(f'<span><i class="key s{i % SERIES}"></i>{escape(n)}</span>' for i, n in enumerate(names)) + "</p>"
