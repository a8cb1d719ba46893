"""Charts as inline SVG: the frontier of bits against KL, and the error of each layer. Colours come from the page's CSS."""

import math
from html import escape

from ..charts.svg import RIGHT, SERIES, WIDE, decades, frame, legend, linear, svg


def frontier(rows):
    """Bits an element against mean KL (log scale), one mark a row, coloured by verdict; the line joins those that no other
    beats in both. rows: of one mode and context, with a KL."""
    points = [(r["bits"], max(r["kl"], 1e-8), r) for r in rows if r["kl"] is not None]
    if not points:
        return ""
    across = linear(0, max(b for b, _, _ in points) * 1.12)
    down = decades([k for _, k, _ in points])
    parts = [frame(across, down, "bits an element", "mean KL to the unquantized cache (nats)")]
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
    return svg(parts, "bits an element against KL")


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
    across, down = linear(0, max(1, longest - 1), whole=True), decades(values, percent=True)
    parts = [frame(across, down, "layer", label)]
    for i, (name, errors) in enumerate(series.items()):
        points = " ".join(f"{across.at(j):.1f},{down.at(max(e, down.low)):.1f}" for j, e in enumerate(errors))
        parts.append(f'<polyline class="line s{i % SERIES}" points="{points}"><title>{escape(name)}</title></polyline>')
        parts += [f'<circle class="dot s{i % SERIES}" cx="{across.at(j):.1f}" cy="{down.at(max(e, down.low)):.1f}" r="2.5">'
                  f"<title>{escape(name)}, layer {j}: {e:.3%}</title></circle>" for j, e in enumerate(errors)]
    return svg(parts, label) + legend(series)
