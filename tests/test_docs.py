"""README and docs stay true: generated parts are up to date, links lead somewhere, commands run as written, bytes lie where said."""

import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request

import mlx.core as mx
import numpy as np
import pytest
from helpers.command import environment
from helpers.docs import COMMANDS, DOCS, PAGES, RECORD, REPO, commands, records, shell_commands
from helpers.readme import block

from mlxr._version import __version__
from mlxr.home import cache_home
from mlxr.kernels import source
from mlxr.pages.formats import page_format

# Commands of README and docs: what is shown, once. FAST ones run in every test run, SLOW ones with --slow.
FAST = ("mlxr generate --prompt \"", "mlxr inspect", "mlxr plan")
SLOW = ("mlxr generate ./model.gguf", "mlxr generate Qwen/Qwen3-0.6B", "mlxr generate --prompts", "git diff |", "mlxr chat", "mlxr convert",
        "mlxr bench", "mlxr doctor", "mlxr serve", "mlxr validate", "pip install .")
ELSEWHERE = {"tools/quickstart": "tests/test_packaging.py", "tools/test": "what runs this test"}
SHOWN = [c for page in PAGES for c in shell_commands(page.read_text())]


def test_generated_parts_are_up_to_date():
    assert COMMANDS.read_text() == commands(), "run tools/docs"
    assert block(RECORD, "records") == records(), "run tools/docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:mlxr|metal|tests|tools|examples)/[\w./]+)`", page.read_text()):
        assert (REPO / name).exists() or "NAME" in name, name


SOURCE = "\n".join(p.read_text() for p in sorted((REPO / "mlxr").rglob("*.py")))


def test_messages_that_troubleshooting_explains_are_said():
    """Each piece between numbers and names of a quoted message is somewhere in the source."""
    table = (DOCS / "troubleshooting.md").read_text().partition("| variable |")[0]
    quoted = [q for row in re.findall(r"^\| (.*?) \|", table, re.M) for q in re.findall(r"`([^`]{12,})`", row)]
    assert len(quoted) >= 6
    for message in quoted:
        for piece in re.split(r"\.\.\.|: |\bN\b|\bM\b|\bNAME\b", message):
            assert piece.strip(" ,") in SOURCE, f"{message}: {piece!r} is said nowhere"


def test_every_variable_is_explained():
    page = (DOCS / "troubleshooting.md").read_text()
    assert not [v for v in sorted(set(re.findall(r"\bMLXR_[A-Z]+\b", SOURCE))) if f"| `{v}` |" not in page]


def test_the_page_on_gpus_has_every_kernel():
    text = (DOCS / "gpu.md").read_text()
    assert not [name for name in source.names() if f"`{name}`" not in text]


def test_the_changelog_has_this_version():
    assert f"## {__version__}" in (DOCS / "changelog.md").read_text()


def test_every_command_is_run_by_a_test():
    assert len(SHOWN) > 15
    for command in SHOWN:
        assert sum(command.startswith(c) for c in (*FAST, *SLOW, *ELSEWHERE)) >= 1, f"{command}: give it a place in FAST or SLOW"


@pytest.fixture(scope="module")
def walk(tmp_path_factory, smollm2_gguf):
    """A folder in which the commands find the files that they name, with `mlxr` on the path."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "bin").mkdir()
    (folder / "bin" / "mlxr").write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mlxr \"$@\"\n")
    (folder / "bin" / "mlxr").chmod(0o755)
    for name in ("model.gguf", "small.gguf", "big.gguf"):
        (folder / name).symlink_to(smollm2_gguf)
    (folder / "question.txt").write_text("What is a page?\n")
    (folder / "prompts.txt").write_text("One\nTwo\n")
    subprocess.run("git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git add question.txt "
                   "&& git -c user.name=a -c user.email=a@b commit -qm y && echo Why >> question.txt", shell=True, cwd=folder, check=True)
    return folder


def run(walk, command, **more):
    env = environment()
    env.update(PATH=f"{walk / 'bin'}:{env['PATH']}", PYTHONPATH=f"{REPO}:{env.get('PYTHONPATH', '')}", **more)
    return subprocess.run(command, shell=True, cwd=walk, env=env, capture_output=True, text=True, timeout=1500, input="hello\n")


@pytest.mark.parametrize("command", [c for c in SHOWN if c.startswith(FAST)])
def test_command_runs_as_written(walk, command):
    result = run(walk, command)
    assert result.returncode == 0 and result.stdout.strip(), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in SHOWN if c.startswith(SLOW)])
def test_slow_command_runs_as_written(walk, command, request):
    if command.startswith("mlxr serve"):
        return serves(walk, command)
    if command.startswith("pip install"):
        pytest.skip("tests/test_packaging.py installs the package")
    more = {}
    if "Qwen/Qwen3-0.6B" in command:                # from a hub on the loopback, which has another model under that name
        more = {"HF_ENDPOINT": request.getfixturevalue("hub").url, "HF_HOME": str(walk / "hf")}
    for made in ("folder", "small"):
        shutil.rmtree(walk / made, ignore_errors=True)
    result = run(walk, command, **more)
    assert result.returncode == 0 and (result.stdout + result.stderr).strip(), result.stderr


def serves(walk, command):
    env = {**environment(), "PYTHONPATH": str(REPO), "HOME": str(walk), "MLXR_HOME": str(cache_home())}
    command = command.replace("mlxr", f"{sys.executable} -m mlxr", 1).replace("8080", "18089").replace("~", str(walk))
    words = shlex.split(command + ("" if "--port" in command else " --port 18089"))
    with subprocess.Popen(words, cwd=walk, env=env, stderr=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stderr:
                if line.startswith("serving"):
                    break
            deadline = time.monotonic() + 30
            while True:
                try:
                    assert urllib.request.urlopen("http://127.0.0.1:18089/health", timeout=5).status == 200
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def hub(smollm2_fp32):
    sys.path.insert(0, str(REPO / "tests" / "weights"))
    from fake_hub import FakeHub

    made = FakeHub({"Qwen/Qwen3-0.6B": {p.name: p.read_bytes() for p in smollm2_fp32.iterdir() if p.is_file()}})
    yield made
    made.close()


def test_bytes_of_a_record_lie_where_record_md_says():
    """Its example: byte 293 of a q8 record is channel 5 of token 9, byte 4,100 the scale of channel 1."""
    text = RECORD.read_text()
    assert "byte 293" in text and "byte 4,100" in text
    q8 = page_format("q8")
    mx.random.seed(1)
    k, v = (mx.random.normal((64, 64)) for _ in range(2))
    record = mx.contiguous(q8.encode(k, v)).view(mx.uint8)

    def changed(byte):
        other = mx.array(record)
        other[byte] = other[byte] ^ 1
        before, after = (q8.decode(mx.contiguous(r).view(mx.uint32), 64, 64, 64)[0] for r in (record, other))
        return set(zip(*(axis.tolist() for axis in np.nonzero(np.array(after - before)))))

    assert changed(293) == {(9, 5)}
    assert {channel for _, channel in changed(4100)} == {1}
