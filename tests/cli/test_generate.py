"""`mlxr generate` with the real model, each run a process of its own."""

import argparse
import json
import os
import signal
import subprocess

import pytest

from helpers.command import MLXR, Terminal, environment, mlxr
from mlxr.cli.generate import _tokens_needed

FOX = "The quick brown fox"


pytestmark = pytest.mark.usefixtures("model_is_ready")


@pytest.fixture(scope="module")
def fox(model_is_ready):
    """What the model says to FOX, greedily, in 6 tokens."""
    result = mlxr("generate", "--prompt", FOX, "--raw", "--temp", "0", "--max-tokens", "6")
    assert result.returncode == 0
    return result


def test_raw_prints_only_the_text(fox):
    assert fox.stdout.startswith(" ") and fox.stdout.endswith("\n") and fox.stdout.count("\n") == 1
    assert 4 <= len(fox.stdout.split()) <= 6


def test_statistics_stand_on_stderr(fox):
    lines = fox.stderr
    for what in ("llama (paged)", "float32", "backend ", "pages f16 of 64 tokens", "pool ", "prompt 4 tokens",
                 "first token after ", "generation 6 tokens", " tokens/s", "peak memory ", "finished: length"):
        assert what in lines, what
    assert "(2 pages)" in lines                # as many as the prompt needs, and not a whole context


@pytest.mark.parametrize("lengths, most, pages", [([4], 32, 1), ([57], 32, 1), ([58], 32, 2), ([4, 4, 58], 32, 4),
                                                  ([4, 58, 200], 2, 6), ([4] * 100, 3, 3)])
def test_tokens_that_a_pool_must_hold(lengths, most, pages):
    """6 tokens after each prompt, in pages of 64, the largest `most` prompts at once."""
    args = argparse.Namespace(page_size=64, max_tokens=6, max_batch=most)
    assert _tokens_needed([[0] * n for n in lengths], args) == pages * 64


def test_where_prompts_come_from(fox, tmp_path):
    """Each the same text: an argument, standard input, '-', a file; options before and between the arguments."""
    (tmp_path / "prompt").write_text(FOX + "\n")
    common = ["--raw", "-q", "-n", "6"]
    for args, stdin in (([FOX, *common], ""), ([*common, "--prompt", "-"], FOX), (common, FOX + "\n"),
                        (["smollm2-135m", *common, FOX], ""), ([*common, "--file", tmp_path / "prompt"], "")):
        result = mlxr("generate", *args, stdin=stdin)
        assert (result.returncode, result.stdout, result.stderr) == (0, fox.stdout, ""), args


def test_chat_template_json_and_logprobs():
    prompt = "What is the capital of France? Answer in one word."
    result = mlxr("generate", "--prompt", prompt, "--json", "--logprobs", "2", "-n", "12", "-q")
    answer = json.loads(result.stdout)
    assert result.stderr == "" and result.stdout.count("\n") == 1
    assert answer["prompt"] == prompt and "Paris" in answer["text"] and answer["finish_reason"] == "stop"
    assert answer["prompt_tokens"] > 20 and len(answer["token_ids"]) == len(answer["logprobs"]) <= 12
    assert all(len(x["top"]) == 2 and x["logprob"] <= 0 for x in answer["logprobs"])
    assert {"time_to_first_token", "prompt_tps", "generation_tps"} <= answer["stats"].keys()
    assert {"backend", "page_format", "pages", "peak_bytes", "architecture", "dtype"} <= answer["engine"].keys()


def test_many_prompts_as_one_batch(fox, tmp_path):
    prompts = [FOX, "One, two, three,", "Line 1\nLine 2", "Water boils at"]
    lines = [prompts[0], "", json.dumps({"prompt": prompts[1]}), json.dumps({"prompt": prompts[2], "id": 7}),
             prompts[3]]
    (tmp_path / "prompts").write_text("\n".join(lines) + "\n")
    args = ["generate", "--prompts", tmp_path / "prompts", "--raw", "-n", "6"]
    result = mlxr(*args, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [a["prompt"] for a in answers] == prompts and "4 prompts in " in result.stderr
    assert answers[0]["text"] + "\n" == fox.stdout and "four" in answers[1]["text"]
    assert answers[0]["engine"]["steps"] <= 8            # one batch: not four times six steps
    shown = mlxr(*args, "-q")
    assert shown.stderr == "" and all(f"==== {p.splitlines()[0]}\n" in shown.stdout for p in prompts)
    assert all(a["text"] in shown.stdout for a in answers)


def test_seed_and_stop():
    def run(*args):
        return mlxr("generate", FOX, "--raw", "-q", "-n", "8", "--temp", "1.5", "--top-p", "0.95", *args).stdout

    one = run("--seed", "5")
    assert run("--seed", "5") == one != run("--seed", "6")
    stop = one.strip()[3:7]
    assert run("--seed", "5", "--stop", stop) == one[:one.index(stop)] + "\n"


def test_a_chat_template_of_the_users_own(tmp_path, fox):
    """It wraps the prompt in place of the model's: here, in nothing."""
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    result = mlxr("generate", "--prompt", FOX, "--chat-template", tmp_path / "t.jinja", "-n", "6", "-q")
    assert result.stdout == fox.stdout


def test_text_streams_and_ctrl_c_ends_with_130():
    process = subprocess.Popen([*MLXR, "generate", FOX, "--raw", "-n", "2000", "--ignore-eos"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout.read(1) == " "                 # long before the 2000th token
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err


def interrupted_while_loading():
    """(exit status, what was shown) of a process that gets Ctrl-C when mlx is mapped into it: about when loading begins."""
    with Terminal("generate", FOX, "--raw", "--kv", "f16") as terminal:
        process = terminal.process
        maps = f"/proc/{process.pid}/maps"
        if not os.path.exists(maps):
            pytest.skip("no /proc here to see how far the process is")
        while "libmlx" not in open(maps).read():
            assert process.poll() is None
        terminal.send("\x03")
        return terminal.end()


def test_ctrl_c_while_the_model_loads():
    # Python swallows an interrupt that falls into a callback of an import: then it is sent to another process.
    for _ in range(4):
        code, shown = interrupted_while_loading()
        if code == 130:
            assert "Traceback" not in shown
            return
        assert code == 0
    pytest.fail("four interrupts were ignored")


@pytest.mark.parametrize("args", [["generate", FOX, "--raw", "-n", "500", "--ignore-eos"], ["generate", "--help"]])
def test_a_reader_that_goes_away(args):
    """As with `| head -1`: no traceback, and no waiting for the rest."""
    process = subprocess.Popen([*MLXR, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment())
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(120) in (0, 141) and "Traceback" not in err and "Exception ignored" not in err
