"""The generated parts of mlxr/docs, and the commands that README and docs show."""

import contextlib
import io
import os
import re
from pathlib import Path
from unittest import mock

import mlxr  # noqa: F401  (before anything imports mlx)
from mlxr.cli.main import commands as command_names
from mlxr.cli.main import main
from mlxr.pages.formats import NAMES, page_format

REPO = Path(__file__).resolve().parents[2]
DOCS = REPO / "mlxr" / "docs"
COMMANDS, RECORD = DOCS / "commands.md", DOCS / "record.md"
PAGES = (REPO / "README.md", *sorted(DOCS.glob("*.md")))


def help_of(*command):
    """What `mlxr COMMAND --help` prints, in lines of 100 characters."""
    out = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}), contextlib.redirect_stdout(out):
        assert main([*command, "--help"]) == 0
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def commands():
    """The text of commands.md."""
    parts = ["# Commands", "", "Written by `tools/docs` from the commands' own help.", "", "```", help_of(), "```", ""]
    for name in command_names():
        parts += [f"## mlxr {name}", "", "```", help_of(name), "```", ""]
    return "\n".join(parts)


def records():
    """The table of record.md."""
    lines = ["| format | D | K's part, bytes | V's part begins at byte | V's part, bytes | record, bytes | bits an element |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for name in NAMES:
        made = page_format(name)
        for d in (64, 128):
            k, v = made.k.words(64, d) * 4, made.v.words(64, d) * 4
            lines.append(f"| `{name}` | {d} | {k:,} | {k:,} | {v:,} | {made.words(64, d, d) * 4:,} | {made.bits_per_element(64, d, d):.4g} |")
    return "\n".join(lines)


def shell_commands(text):
    """The lines of a Markdown text's `sh` blocks that are commands: without prompts and comments, continuations joined."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            line = re.sub(r"\s+#\s.*$", "", line).strip().removeprefix("$ ")
            if line and not line.startswith("#"):
                found.append(line)
    return found
