"""The README's map of the repository: one line a file, from what each file says of itself in its first line."""

import ast
import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDERS = ("mlxr", "metal", "tools", "examples")


def first_line(path):
    """What a file says it is for: its docstring's first line, or its first comment; "" when it says nothing."""
    text = path.read_text()
    if path.suffix == ".py" or text.startswith("#!/usr/bin/env python3"):
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#!") and line.startswith(("//", "#", "/*", "<!--")):
            return line.removeprefix("<!--").lstrip("/#* ").removesuffix("-->").rstrip(" */")
    return ""


def files():
    """The files of the map that git tracks, in order."""
    names = subprocess.run(["git", "-C", str(REPO), "ls-files", *FOLDERS], capture_output=True, text=True, check=True).stdout.split()
    return [REPO / n for n in names if not n.endswith(".md") and (REPO / n).exists()]


def markdown():
    """A table for each folder: file, what it is for."""
    lines, folder = [], None
    for path in files():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"**{folder.relative_to(REPO)}/**", ""]
        lines.append(f"- `{path.name}` {first_line(path)}")
    return "\n".join(lines).strip("\n")
