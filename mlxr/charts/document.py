"""The HTML document of a report: its style, its head, tables. It needs no other file."""

from html import escape

STYLE = """
:root{--ink:#1c2330;--soft:#5c6675;--paper:#fff;--page:#f4f5f7;--rule:#dfe3e8;--accept:#1a7f4b;--marginal:#b06d00;--reject:#c0322b;
--s0:#2d6cdf;--s1:#d9632b;--s2:#1a9a7a;--s3:#8e51c9;--s4:#b58900;--s5:#c2387a;--s6:#4a5a6a;--s7:#7a8f00;--s8:#00838f;--s9:#795548}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--paper:#1a1f27;--page:#12161c;--rule:#303844;--accept:#4cc38a;
--marginal:#e5a43b;--reject:#f0716a;--s0:#6f9ff5;--s1:#f08e5b;--s2:#4cc9a8;--s3:#b98aea;--s4:#dcb93c;--s5:#ea6fa6;--s6:#aab8c8;--s7:#b5cc3a;--s8:#4dd0e1;--s9:#bc9a8c}}
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
.bar{stroke:var(--soft)}.mark{fill:var(--c);stroke:var(--paper);stroke-width:1.5}.bars{fill:var(--c)}.small{fill:var(--soft);font-size:11px}.line{fill:none;stroke:var(--c);stroke-width:1.8}.dot{fill:var(--c)}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}.s7{--c:var(--s7)}.s8{--c:var(--s8)}.s9{--c:var(--s9)}.legend{margin:8px 0 0;
display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:13.5px}.key{display:inline-block;width:16px;height:3px;background:var(--c);
vertical-align:middle;margin-right:6px}.pass{color:var(--accept)}.fail{color:var(--reject)}.note{color:var(--soft);font-size:13.5px;margin:10px 0 0}
ul{margin:0;padding-left:20px}
"""


def document(title, heading, sub, body):
    """A page as text. title, heading, sub: plain text; body: pieces of HTML."""
    return ("<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(heading)}</h1>"
            f"<p class=sub>{escape(sub)}</p>{''.join(body)}</main></body></html>\n")


def table(head, rows, left=1):
    """An HTML table of plain text; the first `left` columns are flush left."""
    def line(cells, tag):
        return "".join(f"<{tag}{' class=t' if i < left else ''}>{escape(str(c))}</{tag}>" for i, c in enumerate(cells))
    body = "".join(f"<tr>{line(r, 'td')}</tr>" for r in rows)
    return f"<div class=wide><table><tr>{line(head, 'th')}</tr>{body}</table></div>"
