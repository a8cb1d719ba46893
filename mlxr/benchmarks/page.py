"""The report of a benchmark as one HTML page with charts that needs no other file."""

from html import escape

from ..charts import svg
from ..charts.document import document, table


COLD = ("First tokens come after a context that is in the cache; context, cold: that of one sequence, read once, up to 4096 tokens "
        "(longer ones are filled with copies of pages).")


def page(report):
    """The dict of suite.Suite.report as HTML text."""
    name = report["model"].rstrip("/").rsplit("/", 1)[-1]
    m = report["machine"]
    sub = (f"{report['architecture']}, {report['dtype']}, backend {report['backend']} with {report['threads']} threads. {m['cpu']}, {m['cpus']} CPUs, "
           f"{m['memory_bytes'] / 2**30:.0f} GiB, load {m['load']}. " + ", ".join(f"{n} {v}" for n, v in report["versions"].items())
           + f". {report['time'][:16].replace('T', ' ')} UTC.")
    body = [f"<div class=charts>{''.join(_section(*c) for c in _charts(report))}</div>", _section("Tokens a second", _rates(report),
            "Median of the repetitions, with the least and the most; ratio: mlxr's over theirs."),
            _section("Memory and first token", _memory(report), COLD), _section("Prefix hits", _prefix(report)),
            _section("Serving load", _serving(report)),
            _notes(report)]
    return document(f"Benchmark: {name}", f"Benchmark of {name}", sub, body)


def _section(title, content, note=""):
    return f"<section style='margin-top:18px'><h2>{title}</h2>{content}{f'<p class=note>{escape(note)}</p>' if note else ''}</section>" if content else ""


def _charts(r):
    cells, names = r["cells"], _names(r)
    for metric, title in (("prefill", f"Reading a prompt of {r['pp']} tokens"), ("decode", f"Generating {r['tg']} tokens")):
        groups = {}
        for c in cells:
            for n, rates in c["contestants"].items():
                groups.setdefault((c["batch"], c["depth"]), {})[_name(n, c)] = rates[f"{metric}_tps"]
        rows = [(f"batch {batch}, depth {depth}", tuple(found.get(n) for n in names)) for (batch, depth), found in groups.items()]
        yield title, svg.bars(rows[:16], names), "tokens a second" + (f"; the first 16 of {len(rows)} sizes" if len(rows) > 16 else "")
    for metric, key, other, title in (("prefill", "depth", "batch", "Reading against the context"), ("decode", "depth", "batch", "Generation against the context"),
                                      ("decode", "batch", "depth", "Generation against the batch")):
        series = _series(cells, metric, key, other)
        text = "tokens of context" if key == "depth" else "sequences at once"
        yield title, svg.curves(series, text, "tokens a second", "{:g}".format, "{:g}".format) if series else "", ""


def _name(contestant, cell):
    return f"{contestant} {cell['kv']}" if contestant == "mlxr" else contestant


def _names(r):
    """Contestants and page formats, each once, as bars and lines are named."""
    return list(dict.fromkeys(_name(n, c) for c in r["cells"] for n in c["contestants"]))


def _series(cells, metric, key, other):
    """{name: [(key, tokens a second)]} of the cells with the smallest `other`, where there are two sizes of `key`."""
    least, found = min(c[other] for c in cells), {}
    for c in cells:
        for name, rates in c["contestants"].items():
            if c[other] == least and rates[f"{metric}_tps"]:
                found.setdefault(_name(name, c), []).append((max(1, c[key]), rates[f"{metric}_tps"]))
    return {n: sorted(points) for n, points in found.items() if len(points) > 1}


def _rate(rates, metric):
    if rates[f"{metric}_tps"] is None:
        return "–"
    least, most = rates[f"{metric}_tps_spread"]
    return f"{rates[f'{metric}_tps']:.1f} ({least:.1f} – {most:.1f})"


def _rates(r):
    rows = []
    for c in r["cells"]:
        for name, rates in c["contestants"].items():
            ratios = ["" if name == "mlxr" or not rates.get(f"{m}_ratio") else f"{rates[f'{m}_ratio']:.2f}" for m in ("prefill", "decode")]
            rows.append((name, c["kv"] if name == "mlxr" else "", c["batch"], c["depth"], _rate(rates, "prefill"), ratios[0], _rate(rates, "decode"), ratios[1]))
    return table(("engine", "pages", "batch", "depth", f"pp{r['pp']}", "ratio", f"tg{r['tg']}", "ratio"), rows, left=2)


def _memory(r):
    rows = [(c["kv"], c["batch"], c["depth"], f"{c['kv_bytes_per_token']:,.0f}", f"{(c['pool_bytes'] or 0) / 2**20:,.1f} MiB",
             f"{(c['peak_bytes'] or 0) / 2**20:,.0f} MiB", _first(c), _ms(c["fill_seconds"])) for c in r["cells"]]
    return table(("pages", "batch", "depth", "KV bytes a token", "page pool", "peak memory", f"first token of {r['pp']}", "context, cold"), rows)


def _first(c):
    return "–" if c["ttft_seconds"] is None else f"{_ms(c['ttft_seconds'])} ({' – '.join(map(_ms, c['ttft_spread']))})"


def _ms(seconds):
    return "–" if seconds is None else f"{seconds * 1e3:,.0f} ms"


def _prefix(r):
    rows = [(x["kv"], p["prompt_tokens"], p["cached_tokens"], f"{p['cold_seconds'] * 1e3:.0f} ms", f"{p['hit_seconds'] * 1e3:.0f} ms",
             f"{p['cold_seconds'] / p['hit_seconds']:.1f} x") for x in r["extras"] if (p := x["prefix"])]
    return table(("pages", "tokens of the prompt", "found in the cache", "first token, cold", "with a hit", "faster"), rows) if rows else ""


def _serving(r):
    rows = [(x["kv"], s["requests"], s["at_once"], f"{s['tps']:.1f}", f"{s['total_tps']:.0f}", f"{s['ttft_p50'] * 1e3:.0f} / {s['ttft_p95'] * 1e3:.0f} ms",
             f"{s['pace_p50'] * 1e3:.1f} / {s['pace_p95'] * 1e3:.1f} ms", s["preemptions"]) for x in r["extras"] if (s := x["serving"])]
    return table(("pages", "requests", "at once", "generated tokens/s", "with prompts", "first token, p50 / p95", "a token, p50 / p95", "preemptions"), rows) if rows else ""


def _notes(r):
    notes = [*r["notes"], *(["interrupted: these are the parts that were complete"] if r["interrupted"] else [])]
    return _section("Notes", f"<ul>{''.join(f'<li>{escape(n)}</li>' for n in notes)}</ul>") if notes else ""
