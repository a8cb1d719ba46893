"""Charts as inline SVG: the frontier of bits against KL, and the error of each layer. Colours come from the page's CSS."""

import math
from html import escape

WIDE, HIGH = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 18, 54
SERIES = 6      # classes s0 .. s5 of the page


def frontier(rows):
    """Bits an element against mean KL (log scale), one mark a row, coloured by verdict; the line joins those that no other
    beats in both. rows: of one mode and context, with a KL."""
    points = [(r["bits"], max(r["kl"], 1e-8), r) for r in rows if r["kl"] is not None]
    if not points:
        return ""
    across = _linear(0, max(b for b, _, _ in points) * 1.12)
    down = _decades([k for _, k, _ in points])
    parts = [_frame(across, down, "bits an element", "mean KL to the unquantized cache (nats)")]
    best, line = math.inf, []
    for bits, kl, _ in sorted(points, key=lambda p: p[:2]):
        if kl < best:
            best = kl
            line.append(f"{across.at(bits):.1f},{down.at(kl):.1f}")
    parts.append(f'<polyline class="front" points="{" ".join(line)}"/>')
    taken = []
    for bits, kl, row in sorted(points, key=lambda p: p[1]):
        x, y = across.at(bits), down.at(kl)
        se = row["kl_se"] or 0
        if se:
            parts.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{down.at(kl + se):.1f}" y2="{down.at(max(kl - se, down.low)):.1f}"/>')
        mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"' if not row["format"].startswith("mlx-lm") else (
            f'<rect x="{x - 5.5:.1f}" y="{y - 5.5:.1f}" width="11" height="11"')
        parts.append(f'{mark} class="mark {row["verdict"].lower()}"><title>{escape(_tip(row))}</title></{mark[1:].split()[0]}>')
        side, tx, ty = _label_place(x, y, taken, len(row["format"]))
        parts.append(f'<text class="label" x="{tx:.1f}" y="{ty:.1f}" text-anchor="{side}">{escape(row["format"])}</text>')
    return _svg(parts, "bits an element against KL")


def _label_place(x, y, taken, letters):
    """Where a mark's label goes: beside it, on the side with room, lower or higher where another is there."""
    side = "end" if x > WIDE - RIGHT - 8 * letters - 16 else "start"
    tx, ty = (x - 11, y + 4) if side == "end" else (x + 11, y + 4)
    while any(abs(ty - oy) < 14 and abs(tx - ox) < 110 for ox, oy in taken):
        ty -= 15
    taken.append((tx, ty))
    return side, tx, ty


def _tip(row):
    return f"{row['format']}: {row['bits']:.2f} bits, KL {row['kl']:.2g}, top-1 {row['top1']:.1f} %, {row['verdict']}"


def by_layer(series, label):
    """Relative error of each layer (log scale), a line for each of {name: [errors]}."""
    series = {n: e for n, e in series.items() if e}
    values = [x for e in series.values() for x in e if x > 0]
    if not values:
        return ""
    longest = max(map(len, series.values()))
    across, down = _linear(0, max(1, longest - 1), whole=True), _decades(values, percent=True)
    parts = [_frame(across, down, "layer", label)]
    for i, (name, errors) in enumerate(series.items()):
        points = " ".join(f"{across.at(j):.1f},{down.at(max(e, down.low)):.1f}" for j, e in enumerate(errors))
        parts.append(f'<polyline class="line s{i % SERIES}" points="{points}"><title>{escape(name)}</title></polyline>')
        parts += [f'<circle class="dot s{i % SERIES}" cx="{across.at(j):.1f}" cy="{down.at(max(e, down.low)):.1f}" r="2.5">'
                  f"<title>{escape(name)}, layer {j}: {e:.3%}</title></circle>" for j, e in enumerate(errors)]
    legend = "".join(f'<span><i class="key s{i % SERIES}"></i>{escape(n)}</span>' for i, n in enumerate(series))
    return _svg(parts, label) + f'<p class="legend">{legend}</p>'


class _Axis:
    """A scale from values to pixels. ticks: [(value, text)]."""

    def __init__(self, low, high, start, end, ticks, log=False):
        self.low, self.ticks, self._log = low, ticks, log
        self._low, self._high = (math.log10(low), math.log10(high)) if log else (low, high)
        self._start, self._end = start, end

    def at(self, value):
        v = math.log10(max(value, self.low)) if self._log else value
        return self._start + (v - self._low) / ((self._high - self._low) or 1) * (self._end - self._start)


def _linear(low, high, whole=False):
    step = next(s for s in (1, 2, 4, 5, 10, 20, 50, 100, 1000) if (high - low) / s <= 10)
    ticks = [(v, f"{v}") for v in range(int(low), int(high) + 1, step)]
    return _Axis(low, high, LEFT + (10 if whole else 0), WIDE - RIGHT, ticks)


def _decades(values, percent=False):
    """A log scale of whole decades around positive values."""
    first, last = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    last = max(last, first + 1)
    text = (lambda e: f"{10.0 ** (e + 2):g} %") if percent else (lambda e: f"{10.0 ** e:g}")
    return _Axis(10.0 ** first, 10.0 ** last, HIGH - BOTTOM, TOP, [(10.0 ** e, text(e)) for e in range(first, last + 1)], log=True)


def _frame(across, down, below, beside):
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


def _svg(parts, title):
    return f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
