"""Charts as inline SVG: scales, frames, curves and bars. Colours come from the CSS of document.py."""

import math
from html import escape

WIDE, HIGH = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 18, 54
SERIES = 10     # classes s0 .. s9 of the page


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


def curves(series, below, beside, x_text, y_text, levels=(), marks=()):
    """Lines on two log scales, one of {name: [(x, y)]} each, and their legend.

    x_text, y_text: value -> text of a tick. levels: (y, text) of dashed lines across; marks: (x, text) of dashed lines up.
    """
    points = [p for ps in series.values() for p in ps]
    xs, ys = [x for x, _ in points], [y for _, y in points if y > 0] + [y for y, _ in levels]
    if not xs or not ys:
        return ""
    doubling = max(xs) / min(xs) > 100 and min(xs) >= 1024
    ticks = [min(xs) * 4 ** i for i in range(12) if min(xs) * 4 ** i <= max(xs)] if doubling else [
        10.0 ** e for e in range(math.ceil(math.log10(min(xs))), math.floor(math.log10(max(xs))) + 1)]
    across = Axis(min(xs), max(xs), LEFT + 10, WIDE - RIGHT, [(t, x_text(t)) for t in ticks], log=True)
    down = decades(ys)
    down.ticks = [(value, y_text(value)) for value, _ in down.ticks]
    parts = [frame(across, down, below, beside)]
    for y, text in levels:
        parts.append(f'<line class="front" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{down.at(y):.1f}" y2="{down.at(y):.1f}"/>'
                     f'<text class="label" x="{LEFT + 6}" y="{down.at(y) - 5:.1f}">{escape(text)}</text>')
    for i, (x, text) in enumerate(sorted(marks)):
        at = across.at(min(max(x, across.low), max(xs)))
        parts.append(f'<line class="front" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HIGH - BOTTOM}"/>'
                     f'<text class="label" x="{at + (5 if at < WIDE / 2 else -5):.1f}" y="{HIGH - BOTTOM - 8 - 18 * (i % 5):.1f}" '
                     f'text-anchor="{"start" if at < WIDE / 2 else "end"}">{escape(text)}</text>')
    for i, (name, line) in enumerate(series.items()):
        path = " ".join(f"{across.at(x):.1f},{down.at(max(y, down.low)):.1f}" for x, y in line)
        parts.append(f'<polyline class="line s{i % SERIES}" points="{path}"><title>{escape(name)}</title></polyline>')
    return svg(parts, below + " against " + beside) + legend(series)


def bars(rows, names, text="{:.4g}".format):
    """Horizontal bars, a group of them for each (label, values); None is left out. names: of the values of a group."""
    most = max((v for _, values in rows for v in values if v), default=0)
    if not most:
        return ""
    each, gap, left = 11, 8, max(120, 9 * max(len(label) for label, _ in rows) + 16)
    high = sum(each * len(values) + gap for _, values in rows) + gap
    parts, y = [], gap
    for label, values in rows:
        middle = y + each * len(values) / 2 + 5
        parts.append(f'<text class="tick" x="{left - 8}" y="{middle:.1f}" text-anchor="end">{escape(label)}</text>')
        for i, value in enumerate(values):
            if value:
                wide = (WIDE - left - 70) * value / most
                parts.append(f'<rect class="bars s{i % SERIES}" x="{left}" y="{y}" width="{wide:.1f}" height="{each - 2}"/>'
                             f'<text class="small" x="{left + wide + 5:.1f}" y="{y + each - 2}">{text(value)}</text>')
            y += each
        y += gap
    return f'<svg viewBox="0 0 {WIDE} {high}" role="img" aria-label="{escape(", ".join(names))}">{"".join(parts)}</svg>' + legend(names)
