"""The report of a validation in the terminal: tables, by rich."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 132
COLOURS = {"ACCEPT": "green", "MARGINAL": "yellow", "REJECT": "red"}


def _console():
    """Wide enough for a row, wherever it is printed: a row that is cut says nothing."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    return console


def show(report, console=None):
    """Print a report's tables."""
    console = console or _console()
    text = report["text"]
    console.print(f"{report['model'] or report['architecture']}  ({report['dtype']}, backend {report['backend']}, pages of "
                  f"{report['page_size']} tokens)")
    ppl = ", ".join(f"{p:.3f} at {c}" for c, p in report["reference_ppl"].items())
    console.print(f"text: {text['name']}, {text['tokens']} tokens; reference: {report['reference']}, perplexity {ppl} tokens "
                  "of context")
    console.print(_rows_table("", report["rows"]))
    if report["streams"]:
        console.print(_rows_table("K alone and V alone in the format, the other unquantized", report["streams"], True))
    if report["layers"]:
        console.print(_layers_table(report["layers"]))
    if report["recall"]:
        console.print(recall_line(report["recall"]))
    for check in report["checks"]:
        console.print(check_line(check), style=None if check["ok"] else "red")
    for note in report["notes"]:
        console.print(f"note: {note}")
    if report.get("required"):
        asked = report["required"]
        console.print(f"required: {asked['format']} is {'accepted' if asked['accepted'] else 'not accepted'}")
    console.print(f"{report['seconds']:.0f} s")


def _rows_table(title, rows, streams=False):
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    table.add_column("format")
    if streams:
        table.add_column("only")
    for name in ("mode", "context"):
        table.add_column(name)
    for name in ("bits", "delta ppl %", "top-1 %", "KL", "KL p99", *([] if streams else ["greedy 100 %", "until first %"])):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for r in rows:
        cells = [r["format"], *([r["stream"].upper()] if streams else []), r["mode"], str(r["context"]), f"{r['bits']:.2f}",
                 with_error(r, "delta_ppl", "+.2f"), with_error(r, "top1", ".1f"), with_error(r, "kl", ".2g"), number(r["kl_p99"], ".2g"),
                 *([] if streams else [with_error(r, "match100", ".1f"), with_error(r, "prefix100", ".0f")])]
        table.add_row(*cells, Text(r["verdict"], COLOURS[r["verdict"]]))
    return table


def _layers_table(layers):
    table = Table(title="relative L2 error: K and V read back from pages, and attention over them", title_justify="left",
                  box=None, pad_edge=False)
    table.add_column("format")
    for name in ("K", "V", "attention", "worst layer"):
        table.add_column(name, justify="right")
    for name, e in layers.items():
        attention = e["attention"]
        worst = f"{max(attention):.3%} in layer {attention.index(max(attention))}" if attention else "-"
        table.add_row(name, f"{e['k_all']:.3%}", f"{e['v_all']:.3%}", f"{e['attention_all']:.3%}" if attention else "-", worst)
    return table


def recall_line(recall):
    """The recall probe as one line."""
    parts = [f"{name} {found['right']} of {recall['facts']}" for name, found in recall["formats"].items()]
    return f"facts recalled from the beginning of {recall['context']} tokens: {', '.join(parts)}"


def check_line(check):
    """A check as one line."""
    measured = "" if check["difference"] is None else f"relative L2 {check['difference']:.1e} (limit {check['limit']:.1e})"
    return f"{'ok  ' if check['ok'] else 'FAIL'}  {check['format']}: {check['check']}: " + ", ".join(
        x for x in (measured, check["detail"]) if x)


def number(x, form):
    """A figure, or - where there is none."""
    return "-" if x is None else format(x, form)


def with_error(row, name, form):
    """A figure and its standard error."""
    error = row[f"{name}_se"]
    return number(row[name], form) + ("" if error is None else f" ± {format(error, form.lstrip('+'))}")


def show_logits(found, console=None):
    """Print what compare.compare returns."""
    console = console or _console()
    console.print(f"{found['a']}  against  {found['b']}, {found['context']} tokens of {found['text']['name']}")
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(("", "tokens", "max |a-b|", "mean |a-b|", "relative L2", "KL", "KL max", "top-1 %")):
        table.add_column(name, justify="right" if i else "left")
    for what, label in (("prefill", "prefill"), ("decode", "decode, one at a time")):
        d = found[what]
        table.add_row(label, str(d["tokens"]), *(f"{d[n]:.2e}" for n in ("max_abs", "mean_abs", "relative", "kl", "kl_max")), f"{d['top1']:.1f}")
    console.print(table)
