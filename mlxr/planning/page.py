"""A plan as one HTML page with charts that needs no other file."""

from html import escape

from ..charts import svg
from ..charts.document import document, table
from .macs import CHIPS


def page(plan):
    """The dict of plan.make_plan as HTML text."""
    name = (plan["model"] or "a model").rstrip("/").rsplit("/", 1)[-1]
    sub = (f"{plan['layers']} layers, {plan['heads']} query heads, {plan['kv_heads']} KV heads of {plan['head_dim']}"
           + (f", {plan['parameters'] / 1e9:.3g} B parameters at {plan['bits_per_weight']:.2f} bits: {_bytes(plan['weights_bytes'])}"
              if plan["parameters"] else "") + f". From {plan['source']}; nothing was loaded.")
    body = [f"<div class=charts>{''.join(_charts(plan))}</div>", _section("KV cache by page format", _formats(plan)),
            _section("Growth with the context", _growth(plan)), _section("Macs", _macs(plan), f"Contexts are what fits; the model's own limit is {plan['context']:,} tokens."), _section("Roofline", _roofline(plan)),
            _section("Chunked prefill", _chunked(plan)), _notes(plan)]
    return document(f"Memory plan: {name}", f"Memory plan of {name}", sub, body)


def _section(title, content, note=""):
    return f"<section style='margin-top:18px'><h2>{title}</h2>{content}{f'<p class=note>{note}</p>' if note else ''}</section>" if content else ""


def _bytes(n):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"


def _charts(p):
    formats = list(p["bytes_per_token"])
    growth = {f: [(g["tokens"], g["bytes"][f]) for g in p["growth"]] for f in formats}
    lines = [(gb * 0.75 * 2**30 if gb > 32 else gb * 2**30 * 2 / 3, f"Mac of {gb} GB") for gb in (8, 32, 128, 512)]
    yield _section("K and V against the context", svg.curves(growth, "tokens of context", "bytes", _powers, _decimal_bytes, lines),
                   "dashed: what a GPU may use of such a Mac")
    rows = [(m["chip"], m["formats"][formats[0]]["decode_tps"], m["formats"][formats[-1]]["decode_tps_8k"])
            for m in {m["chip"]: m for m in p["macs"]}.values() if m["fits"]]
    yield _section("Decoding, tokens a second at most", svg.bars(
        [(n, (a, b)) for n, a, b in rows], (f"{formats[0]}, 1k tokens of context", f"{formats[-1]}, 8k tokens of context")),
        "memory bandwidth over the bytes that a step reads; an estimate from above, with the largest memory of each chip")
    chips = {c.name: c for c in CHIPS}
    shown = [chips[n] for n in ("M1", "M2 Ultra", "M4 Max 40-core GPU", "M5")]
    roofs = {c.name: [(x, min(c.tflops * 1e12, x * c.bandwidth * 1e9)) for x in _steps(1, 4096)] for c in shown}
    points = [(r["intensity"], f"{r['what']}{', batch ' + str(r['batch']) if r['what'] == 'decode' else ''}") for r in p["intensity"]]
    yield _section("Roofline", svg.curves(roofs, "operations a byte", "operations a second", _plain, _plain_si, (), points) if points else "",
                   "dashed: where decoding and a prefill chunk of this model lie; left of a bend memory is the limit, right of it arithmetic")


def _steps(low, high):
    return [low * 2 ** (i / 4) for i in range(1 + 4 * (high // low).bit_length() - 4)]


def _powers(v):
    return f"{int(v) >> 20}M" if v >= 1 << 20 else f"{int(v) >> 10}k"


def _plain(v):
    return f"{v:g}"


def _plain_si(v):
    return next((f"{v / s:g} {u}" for s, u in ((1e12, "T"), (1e9, "G")) if v >= s), f"{v:g}")


def _decimal_bytes(v):
    return next((f"{v / s:g} {u}" for s, u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if v >= s), f"{v:g} B")


def _formats(p):
    rows = [(f, f"{p['kv_bits'][f]:g}", f"{p['bytes_per_token'][f]:,}", f"{p['bytes_per_token_without_gqa'][f]:,}",
             f"{p['here']['formats'][f]['tokens']:,}", p["here"]["formats"][f]["users_8k"]) for f in p["bytes_per_token"]]
    return table(("page format", "bits an element", "bytes a token", "without GQA", "longest context here", "users of 8k here"), rows)


def _growth(p):
    formats = list(p["bytes_per_token"])
    return table(("tokens", *formats), [(f"{g['tokens']:,}", *(_bytes(g["bytes"][f]) for f in formats)) for g in p["growth"]])


def _macs(p):
    a, b = list(p["bytes_per_token"])[0], list(p["bytes_per_token"])[-1]
    rows = []
    for m in p["macs"]:
        x, y = m["formats"][a], m["formats"][b]
        cells = [_rate(v) for v in (x["decode_tps"], x["decode_tps_8k"], y["decode_tps_8k"], y["decode_tps_32k"])]
        rows.append((m["chip"], f"{m['memory_gb']} GB", f"{m['bandwidth_gbps']:g}", f"{'~' if m['tflops_estimated'] else ''}{m['tflops']:g}",
                     f"{x['tokens']:,}", f"{y['tokens']:,}", x["users_8k"], y["users_8k"], *cells))
    return table(("chip", "memory", "GB/s", "TFLOPS", f"context, {a}", f"context, {b}", f"8k users, {a}", f"8k users, {b}",
                  f"tokens/s, {a} at 1k", f"{a} at 8k", f"{b} at 8k", f"{b} at 32k"), rows)


def _rate(x):
    return "–" if x is None else f"{x:.0f}"


def _roofline(p):
    rows = [(f"{r['what']}, batch {r['batch']}" if r["what"] == "decode" else f"prefill of {r['tokens']} tokens", f"{r['intensity']:g}",
             *(f"{r['limited_by'][c]}, {r['most_tps'][c]:,.0f} tokens/s" for c in ("M1", "M3 Ultra", "M4 Max 40-core GPU", "M5"))) for r in p["intensity"]]
    return table(("step", "operations a byte", "M1", "M3 Ultra", "M4 Max", "M5"), rows) if rows else ""


def _chunked(p):
    rows = [(f"{c['prompt']:,}", c["steps"], _bytes(c["whole_bytes"]), _bytes(c["chunk_bytes"]), _bytes(c["saved_bytes"])) for c in p["chunked_prefill"]]
    return table(("prompt, tokens", "chunks", "scratch at once", "scratch of a chunk", "saved"), rows)


def _notes(p):
    items = "".join(f"<li>{escape(n)}</li>" for n in (*p["notes"], p["formula"], *p["sources"]))
    return f"<section style='margin-top:18px'><h2>How this was reckoned</h2><ul>{items}</ul></section>"
