"""The README stays true: its map names every file, its two commands exist, its Python and shell examples are checked."""

import re
from pathlib import Path

import pytest

from helpers.filemap import REPO, files, first_line, markdown
from helpers.readme import block
from mlxr.cli.main import main

README = Path(REPO / "README.md").read_text()


def test_the_map_is_up_to_date():
    assert block(REPO / "README.md", "map") == markdown(), "run tools/map"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(REPO)))
def test_every_file_says_what_it_is_for(path):
    assert len(first_line(path)) > 10


def test_opens_with_the_two_commands():
    first = re.search(r"```sh\n(.*?)```", README, re.S)[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["tools/quickstart", "tools/test"]
    for command in ("tools/quickstart", "tools/test", ".ci/run"):
        assert (REPO / command).stat().st_mode & 0o111


def _options(line):
    return re.findall(r"(?<=\s)--?[a-z][a-z-]*", re.sub(r'"[^"]*"', '""', line))


@pytest.mark.parametrize("line", re.findall(r"^mlxr .*$|(?<=\| )mlxr .*$", README, re.M))
def test_options_in_the_readme_exist(line, capsys):
    command = line.split()[1]
    if command.startswith("-"):
        return
    assert main([command, "--help"]) == 0
    known = capsys.readouterr().out
    for option in _options(line.split("#")[0]):
        assert re.search(rf"(?<![\w-]){option}\b", known), option


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.S))
def test_python_in_the_readme_runs(code, smollm2_gguf):
    exec(compile(code.replace("max_tokens=200", "max_tokens=4"), "README.md", "exec"), {})
