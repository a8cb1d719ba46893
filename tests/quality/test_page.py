"""The report as a page: one file, sound HTML and SVG, every row in it, nothing fetched from elsewhere."""

import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from mlxr.quality import charts, report
from mlxr.quality.page import page

FIGURES = {"delta_ppl": 0.2, "top1": 98.0, "kl": 3e-4, "kl_p99": 0.004, "match100": 90.0, "prefix100": 40.0}


def row(name, bits, kl, verdict="ACCEPT", **more):
    errors = {f"{n}_se": v / 10 for n, v in FIGURES.items()}
    return {"format": name, "bits": bits, "mode": "in-forward", "stream": "both", "context": 1024, "windows": 12,
            **FIGURES, **errors, "kl": kl, "verdict": verdict, **more}


@pytest.fixture
def made():
    rows = [row("q8", 8.5, 1e-4), row("k:q8,v:q4", 6.4, 2e-3), row("q4", 4.4, 4e-3), row("<b>&", 2.0, 0.9, "REJECT"),
            row("mlx-lm 4-bit", 4.5, 0.05, "MARGINAL"), row("broken", 3.0, None, "REJECT", delta_ppl=None, top1=None, kl_se=None)]
    return {"model": "/a/b/model.gguf", "architecture": "llama", "version": "0.1", "time": "2026-01-02T03:04:05+00:00", "seconds": 61.0,
            "backend": "host", "dtype": "float32", "page_size": 64, "reference": "unquantized pages (f32)",
            "reference_ppl": {"1024": 14.1}, "text": {"name": "book.txt", "digest": "x", "tokens": 99999},
            "plan": {"modes": ["in-forward", "snapshot"]}, "scored": 128, "rows": rows,
            "streams": [row("q4", 4.5, 3e-3, stream="k", match100=None, match100_se=None, prefix100=None, prefix100_se=None)],
            "layers": {"q8": {"k": [0.002, 0.003], "v": [0.005, 0.006], "attention": [0.001, 0.004], "k_all": 0.0025, "v_all": 0.0055,
                              "attention_all": 0.003},
                       "q4": {"k": [0.05, 0.06], "v": [0.09, 0.1], "attention": None, "k_all": 0.055, "v_all": 0.095, "attention_all": None}},
            "recall": {"context": 512, "facts": 3, "formats": {"f32": {"right": 3}, "q4": {"right": 2}}},
            "checks": [{"format": "q8", "check": "batch against alone", "ok": True, "difference": 1e-5, "limit": 1e-4, "detail": ""},
                       {"format": "q4", "check": "pages to a file and back", "ok": False, "difference": None, "limit": None, "detail": "changed"}],
            "notes": ["one thing <to> know"], "formats": {"q8": "ACCEPT"}}


class Reader(HTMLParser):
    """Checks that tags close in order, and keeps attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_sound_and_stands_alone(made):
    html = page(made)
    reader = Reader()
    reader.feed(html)
    assert reader.open == [] and "<script" not in html and "@import" not in html
    assert not {"src", "href", "xlink:href", "data"} & {n for n, _ in reader.attributes} and "url(" not in html and "http" not in html
    text = " ".join(reader.text)
    for wanted in ("model.gguf", "k:q8,v:q4", "<b>&", "MARGINAL", "book.txt", "one thing <to> know", "q4 2 of 3", "FAILS", "98.0"):
        assert wanted in text, wanted
    assert "<b>&<" not in html


def test_charts_are_sound_svg(made):
    drawn = re.findall(r"<svg.*?</svg>", page(made), re.S)
    assert len(drawn) == 4
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        width, height = (float(x) for x in root.get("viewBox").split()[2:])
        for mark in root.iter():
            for name, most in (("cx", width), ("cy", height), ("x", width), ("y", height)):
                if mark.get(name):
                    assert -30 <= float(mark.get(name)) <= most + 1, ElementTree.tostring(mark)


def test_the_frontier_puts_marks_where_they_belong(made):
    root = ElementTree.fromstring(charts.frontier(made["rows"]))
    at = {m[0].text.split(":")[0]: (float(m.get("cx")), float(m.get("cy"))) for m in root.iter("circle")}
    assert at.keys() == {"q8", "k", "q4", "<b>&"}                 # a row without a KL has no mark; mlx-lm's is a square
    assert at["q8"][0] > at["q4"][0] > at["<b>&"][0] and at["q8"][1] > at["q4"][1] > at["<b>&"][1]
    assert len(list(root.iter("rect"))) == 1
    assert charts.frontier([]) == "" and charts.by_layer({"q8": None}, "x") == ""


def test_the_tables_in_the_terminal(made):
    out = io.StringIO()
    report.show(made | {"required": {"format": "q4", "accepted": False}}, Console(file=out, width=132))
    lines = out.getvalue().splitlines()
    q8 = next(line for line in lines if line.startswith("q8 "))
    assert "8.50" in q8 and "+0.20 ± 0.02" in q8 and "98.0 ± 9.8" in q8 and q8.rstrip().endswith("ACCEPT")
    assert any(line.startswith("broken") and " - " in line for line in lines)
    assert "FAIL  q4: pages to a file and back: changed" in lines and "required: q4 is not accepted" in lines
    assert any("0.400% in layer 1" in line for line in lines)
