"""The report of a benchmark as one HTML page with charts that needs no other file."""

from html import escape

from ..charts import svg
from ..charts.document import document, table


def page(report):
    """The dict of suite.Suite.report as HTML text."""
    name = report["model"].rstrip("/").rsplit("/", 1)[-1]
    m = report["machine"]
    sub = (f"{report['architecture']}, {report['dtype']}, backend {report['backend']} with {report['threads']} threads. {m['cpu']}, {m['cpus']} CPUs, "
           f"{m['memory_bytes'] / 2**30:.0f} GiB, load {m['load']}. " + ", ".join(f"{n} {v}" for n, v in report["versions"].items())
           + f". {report['time'][:16].replace('T', ' ')} UTC.")
    body = [f"<div class=charts>{''.join(_section(*c) for c in _charts(report))}</div>", _section("Tokens a second", _rates(report),
            "Median of the repetitions, with the least and the most; ratio: mlxr's over theirs."),
            _section("Memory and first token", _memory(report)), _section("Prefix hits", _prefix(report)), _section("Serving load", _serving(report)),
            _notes(report)]
    return document(f"Benchmark: {name}", f"Benchmark of {name}", sub, body)


def _section(title, content, note=""):
    return f"<section style='margin-top:18px'><h2>{title}</h2>{content}{f'<p class=note>{escape(note)}</p>' if note else ''}</section>" if content else ""


def _charts(r):
    cells = r["cells"]
    for metric, title in (("prefill", f"Reading a prompt of {r['pp']} tokens"), ("decode", f"Generating {r['tg']} tokens")):
        rows = [(f"{n + ' ' + c['kv'] if n == 'mlxr' else n}, batch {c['batch']}" + (f", at {c['depth']}" if metric == "decode" else ""), (rates[f"{metric}_tps"],))
                for c in cells for n, rates in c["contestants"].items() if rates[f"{metric}_tps"]]
        yield title, svg.bars(rows[:24], ("tokens a second",)), ""
    for key, other, text in (("depth", "batch", "tokens of context"), ("batch", "depth", "sequences at once")):
        series = _series(cells, key, other)
        yield (f"Generation against the {'context' if key == 'depth' else 'batch'}", svg.curves(series, text, "tokens a second", "{:g}".format, "{:g}".format)
               if series else "", "")


def _series(cells, key, other):
    """{name: [(key, decode tokens a second)]} of the cells with the smallest `other`, where there are two sizes of `key`."""
    least, found = min(c[other] for c in cells), {}
    for c in cells:
        for name, rates in c["contestants"].items():
            if c[other] == least and rates["decode_tps"]:
                found.setdefault(f"{name} {c['kv']}" if name == "mlxr" else name, []).append((max(1, c[key]), rates["decode_tps"]))
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
    rows = [(c["kv"], c["batch"], c["depth"], f"{c['kv_bytes_per_token']:,.0f}", f"{(c['peak_bytes'] or 0) / 2**20:,.0f} MiB",
             "–" if c["ttft_seconds"] is None else f"{c['ttft_seconds'] * 1e3:.0f} ms") for c in r["cells"]]
    return table(("pages", "batch", "depth", "KV bytes a token", "peak memory", f"first token of {r['pp']}"), rows)


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
