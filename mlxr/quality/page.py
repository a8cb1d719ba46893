"""The report of a validation as one HTML page that needs no other file."""

from html import escape

from ..charts.document import document
from .charts import by_layer, frontier
from .metrics import OF_TOKENS
from .report import number, recall_line
from .verdict import ACCEPT_DELTA, ACCEPT_TOP1, REJECT_DELTA, REJECT_TOP1, worst

COLUMNS = (("delta ppl %", "delta_ppl", "+.2f"), ("top-1 %", "top1", ".1f"), ("KL", "kl", ".2g"), ("KL p99", "kl_p99", ".2g"),
           ("greedy 100 %", "match100", ".1f"), ("until first %", "prefix100", ".0f"))


def page(report):
    """A report (validation.Validation) as HTML text."""
    rows, text = report["rows"], report["text"]
    name = (report["model"] or report["architecture"]).rstrip("/").rsplit("/", 1)[-1]
    plan = report["plan"]
    sub = (f"{report['architecture']}, {report['dtype']}, backend {report['backend']}, pages of {report['page_size']} tokens. "
           f"Text: {text['name']} ({text['tokens']} tokens). Reference: {report['reference']}, perplexity "
           + ", ".join(f"{p:.3f} at {c}" for c, p in report["reference_ppl"].items())
           + f" tokens of context. {report['time'][:16].replace('T', ' ')} UTC, mlxr {report['version']}, {report['seconds']:.0f} s.")
    body = [_cards(report), f"<section><h2>What each page format costs</h2>{_table(rows)}{_legend(report, plan)}</section>",
            f"<div class=charts>{_charts(report)}</div>", _streams(report), _probes(report), _notes(report)]
    return document(f"KV cache quality: {name}", f"KV cache quality of {name}", sub, body)


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
    head += [f"<th>{n}</th>" for n, key, _ in COLUMNS if not (streams and key in OF_TOKENS)] + ["<th class=t>verdict</th>"]
    lines = []
    for r in rows:
        cells = [f"<td class=t>{escape(r['format'])}</td>", *([f"<td class=t>{r['stream'].upper()}</td>"] if streams else []),
                 f"<td class=t>{r['mode']}</td><td>{r['context']}</td><td>{r['bits']:.2f}</td>"]
        for _, key, form in COLUMNS:
            if streams and key in OF_TOKENS:
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
            f"quantization and sealed once. "
            f"Greedy 100: of 100 tokens that the reference continues with, how many the format finds most likely too, each after the "
            f"reference's own; and how many come before the first other one. Bits count codes and scales; the newest tokens, up to a page, stay exact and come on top. "
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
