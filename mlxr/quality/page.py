"""The report of a validation as one HTML page that needs no other file."""

from html import escape

from .charts import by_layer, frontier
from .report import number, recall_line
from .verdict import ACCEPT_DELTA, ACCEPT_TOP1, REJECT_DELTA, REJECT_TOP1, worst

STYLE = """
:root{--ink:#1c2330;--soft:#5c6675;--paper:#fff;--page:#f4f5f7;--rule:#dfe3e8;--accept:#1a7f4b;--marginal:#b06d00;--reject:#c0322b;
--s0:#2d6cdf;--s1:#d9632b;--s2:#1a9a7a;--s3:#8e51c9;--s4:#b58900;--s5:#c2387a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--paper:#1a1f27;--page:#12161c;--rule:#303844;--accept:#4cc38a;
--marginal:#e5a43b;--reject:#f0716a;--s0:#6f9ff5;--s1:#f08e5b;--s2:#4cc9a8;--s3:#b98aea;--s4:#dcb93c;--s5:#ea6fa6}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}h1{font-size:24px;margin:0 0 2px}h2{font-size:17px;margin:0 0 10px}
.sub{color:var(--soft);margin:0 0 20px;overflow-wrap:anywhere}section{background:var(--paper);border:1px solid var(--rule);border-radius:10px;
padding:18px 20px;margin:0 0 18px}.cards{display:flex;flex-wrap:wrap;gap:12px;margin:0 0 18px}.card{background:var(--paper);
border:1px solid var(--rule);border-left:5px solid var(--c);border-radius:10px;padding:10px 16px;min-width:150px}.card b{display:block;
font-size:17px}.card em{font-style:normal;font-weight:600;color:var(--c)}.card small{color:var(--soft);display:block}
.accept{--c:var(--accept)}.marginal{--c:var(--marginal)}.reject{--c:var(--reject)}.wide{overflow-x:auto}table{border-collapse:collapse;
width:100%;font-variant-numeric:tabular-nums;font-size:14px}th{color:var(--soft);font-weight:500;text-align:right;padding:4px 10px;
border-bottom:1px solid var(--rule);white-space:nowrap}td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--rule);
white-space:nowrap}th.t,td.t{text-align:left}tr:last-child td{border-bottom:0}td i{font-style:normal;color:var(--soft);font-size:12px}
td.v{font-weight:600;color:var(--c);text-align:left}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:18px}
.charts section{margin:0}svg{width:100%;height:auto;display:block}.grid{stroke:var(--rule)}.tickmark{stroke:var(--soft)}.tick,.axis,.label
{fill:var(--soft);font-size:15px}.label{fill:var(--ink);font-size:15.5px;paint-order:stroke;stroke:var(--paper);stroke-width:4px}.front{fill:none;stroke:var(--soft);stroke-width:1.5;stroke-dasharray:5 4}
.bar{stroke:var(--soft)}.mark{fill:var(--c);stroke:var(--paper);stroke-width:1.5}.line{fill:none;stroke:var(--c);stroke-width:1.8}.dot{fill:var(--c)}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}.legend{margin:8px 0 0;
display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:13.5px}.key{display:inline-block;width:16px;height:3px;background:var(--c);
vertical-align:middle;margin-right:6px}.pass{color:var(--accept)}.fail{color:var(--reject)}.note{color:var(--soft);font-size:13.5px;margin:10px 0 0}
ul{margin:0;padding-left:20px}
"""
COLUMNS = (("delta ppl %", "delta_ppl", "+.2f"), ("top-1 %", "top1", ".1f"), ("KL", "kl", ".2g"), ("KL p99", "kl_p99", ".2g"),
           ("greedy 100 %", "match100", ".1f"))


def page(report):
    """A report (validation.Validation) as HTML text."""
    rows, text = report["rows"], report["text"]
    name = (report["model"] or report["architecture"]).rstrip("/").rsplit("/", 1)[-1]
    plan = report["plan"]
    sub = (f"{report['architecture']}, {report['dtype']}, backend {report['backend']}, pages of {report['page_size']} tokens. "
           f"Text: {text['name']} ({text['tokens']} tokens). Reference: {report['reference']}, perplexity "
           + ", ".join(f"{p:.3f} at {c}" for c, p in report["reference_ppl"].items())
           + f" tokens of context. {report['time'][:16].replace('T', ' ')} UTC, mlxr {report['version']}, {report['seconds']:.0f} s.")
    body = [f"<h1>KV cache quality of {escape(name)}</h1><p class=sub>{escape(sub)}</p>", _cards(report),
            f"<section><h2>What each page format costs</h2>{_table(rows)}{_legend(report, plan)}</section>",
            f"<div class=charts>{_charts(report)}</div>", _streams(report), _probes(report), _notes(report)]
    return (f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
            f"<title>KV cache quality: {escape(name)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n")


def _cards(report):
    """One card a format: its verdict, bits, and KL in the mode that the verdict is of."""
    cards = []
    for name in dict.fromkeys(r["format"] for r in report["rows"]):
        rows = [r for r in report["rows"] if r["format"] == name and r["mode"] == _mode(report)]
        said = worst([r["verdict"] for r in rows])
        cards.append(f'<div class="card {said.lower()}"><b>{escape(name)}</b><em>{said}</em><small>{rows[0]["bits"]:.2f} bits, '
                     f'KL {number(max(r["kl"] or 0 for r in rows), ".2g")}</small></div>')
    return f'<div class=cards>{"".join(cards)}</div>'


def _mode(report):
    return report["plan"]["modes"][0]


def _table(rows, streams=False):
    head = ["<th class=t>format</th>", *(["<th class=t>only</th>"] if streams else []), "<th class=t>mode</th><th>context</th><th>bits</th>"]
    head += [f"<th>{n}</th>" for n, key, _ in COLUMNS if not (streams and key == "match100")] + ["<th class=t>verdict</th>"]
    lines = []
    for r in rows:
        cells = [f"<td class=t>{escape(r['format'])}</td>", *([f"<td class=t>{r['stream'].upper()}</td>"] if streams else []),
                 f"<td class=t>{r['mode']}</td><td>{r['context']}</td><td>{r['bits']:.2f}</td>"]
        for _, key, form in COLUMNS:
            if streams and key == "match100":
                continue
            se = r[f"{key}_se"]
            error = "" if se is None else f" <i>± {format(se, form.lstrip('+'))}</i>"
            cells.append(f"<td>{number(r[key], form).replace('-', '−') if r[key] is not None else '–'}{error}</td>")
        lines.append(f"<tr>{''.join(cells)}<td class=\"v {r['verdict'].lower()}\">{r['verdict']}</td></tr>")
    return f"<div class=wide><table><tr>{''.join(head)}</tr>{''.join(lines)}</table></div>"


def _legend(report, plan):
    windows = max(r["windows"] for r in report["rows"])
    return (f"<p class=note>{windows} windows of each context, {report['scored']} scored tokens each; ± is the standard error over windows. "
            f"In-forward: every layer attends to what was stored, as the engine runs. Snapshot: the context is computed without "
            f"quantization and sealed once. Bits count codes and scales; the newest tokens, up to a page, stay exact and come on top. "
            f"ACCEPT: perplexity within {ACCEPT_DELTA:g} % and top-1 at least {ACCEPT_TOP1:g} %. REJECT: perplexity {REJECT_DELTA:g} % "
            f"worse, or top-1 below {REJECT_TOP1:g} %. Else MARGINAL.</p>")


def _charts(report):
    context = min(r["context"] for r in report["rows"])
    rows = [r for r in report["rows"] if r["mode"] == _mode(report) and r["context"] == context]
    charts = [("Bits against KL", f"{_mode(report)}, {context} tokens of context; squares are mlx-lm's own cache", frontier(rows))]
    for what, title in (("attention", "Attention error by layer"), ("k", "Error of K by layer"), ("v", "Error of V by layer")):
        series = {n: e[what] for n, e in report["layers"].items()}
        charts.append((title, "relative L2, clean context sealed once", by_layer(series, "relative L2 error")))
    return "".join(f"<section><h2>{t}</h2>{chart}<p class=note>{escape(note)}</p></section>" for t, note, chart in charts if chart)


def _streams(report):
    if not report["streams"]:
        return ""
    return (f"<section style='margin-top:18px'><h2>K alone, V alone</h2>{_table(report['streams'], True)}<p class=note>The other of the "
            "two is unquantized.</p></section>")


def _probes(report):
    items = []
    if report["recall"]:
        items.append(f"<li>{escape(recall_line(report['recall']))}</li>")
    for c in report["checks"]:
        measured = "" if c["difference"] is None else f"relative L2 of logits {c['difference']:.1e}, limit {c['limit']:.1e}"
        detail = ", ".join(x for x in (measured, c["detail"]) if x)
        items.append(f"<li><b class={'pass' if c['ok'] else 'fail'}>{'holds' if c['ok'] else 'FAILS'}</b> {escape(c['format'])}: "
                     f"{escape(c['check'])} <span class=note>{escape(detail)}</span></li>")
    return f"<section><h2>Probes and checks</h2><ul>{''.join(items)}</ul></section>" if items else ""


def _notes(report):
    notes = "".join(f"<li>{escape(n)}</li>" for n in report["notes"])
    return f"<section><h2>Notes</h2><ul>{notes}</ul></section>" if notes else ""
