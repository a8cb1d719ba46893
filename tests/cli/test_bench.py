"""`mlxr bench`: tokens a second of a model as JSON and as a table; kernels as rows and as CSV; refusals in one line."""

import csv
import json
import os
import signal
import subprocess

import pytest

from helpers.command import MLXR, environment, mlxr, refused
from kernels.matrices import needs_compiler
from mlxr.cli.main import main
from mlxr.kernels import source

KERNELS = set(source.names())


@pytest.fixture(scope="module")
def report(smollm2_gguf):
    result = mlxr("bench", smollm2_gguf, "--pp", 20, "--tg", 6, "--depth", 70, "--reps", 3, "--threads", 1, "--json")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert "round 1 of 3" in result.stderr
    return json.loads(result.stdout)


def test_json_of_a_model(report, smollm2_gguf):
    assert report["model"] == str(smollm2_gguf) and report["architecture"] == "llama"
    assert (report["pp"], report["tg"], report["depth"], report["batch"], report["reps"], report["threads"]) == (20, 6, 70, 1, 3, 1)
    assert report["page_format"] == "f16" and report["page_size"] == 64 and report["backend"] in ("host", "metal", "reference")
    assert {"mlxr", "mlx", "python"} <= report["versions"].keys() and report["machine"]["cpus"] >= 1
    assert report["against"] == {} and report["notes"] == [] and report["interrupted"] is False
    assert report["peak_bytes"] > report["weights_bytes"] > 9e7
    for metric in ("prefill", "decode"):
        rates = report[f"{metric}_tps_all"]
        assert len(rates) == 3 and all(1 < r < 1e5 for r in rates)
        assert report[f"{metric}_tps"] == sorted(rates)[1] and report[f"{metric}_tps_spread"] == [min(rates), max(rates)]


@needs_compiler
def test_the_real_engine_was_measured(report):
    assert {"q_gemv", "attend", "q_rows"} <= report["kernels"].keys() and set(report["kernels"].values()) == {report["backend"]}


def test_table_of_a_model_with_a_batch(smollm2_gguf):
    result = mlxr("bench", smollm2_gguf, "--pp", 8, "--tg", 4, "--depth", 5, "--reps", 1, "--batch", 3, "--kv", "f32")
    assert result.returncode == 0, result.stderr
    assert "pp8" in result.stdout and "tg4" in result.stdout and "pages f32 of 64" in result.stdout
    assert any(line.split()[:4] == ["mlxr", "f32", "3", "5"] for line in result.stdout.splitlines())
    assert "tokens/s (least - most)" in result.stdout


def test_against_llama_cpp(smollm2_gguf):
    pytest.importorskip("llama_cpp")
    result = mlxr("bench", smollm2_gguf, "--pp", 16, "--tg", 4, "--depth", 8, "--reps", 2, "--batch", 2, "--against", "llama.cpp", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    peer = report["against"]["llama.cpp"]
    assert peer["settings"]["threads"] == report["threads"] and len(peer["decode_tps_all"]) == 2 and report["notes"] == []
    for metric in ("prefill", "decode"):
        assert peer[f"{metric}_ratio"] == pytest.approx(report[f"{metric}_tps"] / peer[f"{metric}_tps"], rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_several_sizes_and_page_formats_in_one_report(smollm2_gguf, tmp_path):
    """Prompts are measured once for each format and batch; prefix hits and serving for each format; CSV, HTML and JSON agree."""
    result = mlxr("bench", smollm2_gguf, "--pp", 80, "--tg", 3, "--depth", "0,70", "--batch", "1,2", "--kv", "f16,q8", "--reps", 1, "--serving",
                  "--json", "--html", tmp_path / "b.html", "--csv", tmp_path / "b.csv", "--tag", "mine", timeout=400)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    cells = report["cells"]
    assert [(c["kv"], c["batch"], c["depth"]) for c in cells] == [(k, b, d) for k in ("f16", "q8") for b in (1, 2) for d in (0, 70)]
    for c in cells:
        own = c["contestants"]["mlxr"]
        assert own["decode_tps"] > 0 and own["prefill_tps"] > 0 and c["ttft_spread"][0] <= c["ttft_seconds"] <= c["ttft_spread"][1]
        assert (c["fill_seconds"] is None) == (c["depth"] == 0)
    assert [c["kv_bytes_per_token"] for c in cells[::4]] == [23040, 12240] and all(c["peak_bytes"] > 9e7 for c in cells)
    assert [x["kv"] for x in report["extras"]] == ["f16", "q8"]
    for x in report["extras"]:
        assert x["prefix"]["prompt_tokens"] == 80 and x["prefix"]["cached_tokens"] == 70 and x["prefix"]["hit_seconds"] > 0
        s = x["serving"]
        assert s["requests"] == 16 and s["generated_tokens"] >= 16 and s["tps"] == pytest.approx(s["generated_tokens"] / s["seconds"])
        assert 0 < s["ttft_p50"] <= s["ttft_p95"] and s["preemptions"] == 0
    with open(tmp_path / "b.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 16 and {r["tag"] for r in rows} == {"mine"}
    assert [float(r["tps"]) for r in rows if r["metric"] == "decode"] == [c["contestants"]["mlxr"]["decode_tps"] for c in cells]
    text = (tmp_path / "b.html").read_text()
    assert text.count("<svg") == 5 and "Serving load" in text and "Prefix hits" in text
    assert "part 10 of 10" in result.stderr and "s left" in result.stderr


@pytest.mark.slow
def test_against_mlx_lm(smollm2_gguf):
    result = mlxr("bench", smollm2_gguf, "--pp", 4, "--tg", 2, "--depth", 8, "--reps", 1, "--against", "mlx-lm")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("mlx-lm"))
    assert "prefill" in line and "decode" in line and " x" in line


def test_ctrl_c_keeps_what_was_measured(smollm2_gguf):
    process = subprocess.Popen([*MLXR, "bench", str(smollm2_gguf), "--pp", "8", "--tg", "4", "--depth", "4", "--reps", "100000", "--json"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        said = []
        while "left" not in (said[-1] if said else ""):      # the first round is complete
            said.append(process.stderr.readline())
            assert said[-1], said
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    report = json.loads(out)
    assert process.returncode == 130 and report["interrupted"] is True and report["prefill_tps"] > 1 and report["decode_tps"] > 1


@needs_compiler
def test_kernels_as_json_and_csv(tmp_path):
    file = tmp_path / "runs.csv"
    result = mlxr("bench", "kernels", "--preset", "tiny", "--reps", 2, "--threads", 1, "--json", "--csv", file, "--tag", "one")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {r["kernel"] for r in rows} == KERNELS and len(rows) == len(KERNELS)
    for r in rows:
        assert {"kernel", "shape", "ms", "gbps", "share_of_bound", "ratio_to_mlx", "max_rel_error"} <= r.keys()
        assert r["ms"] > 0 and 0 < r["share_of_bound"] < 20 and r["ratio_to_mlx"] > 0 and r["max_rel_error"] < 1e-4 and r["threads"] == 1
        assert r["ratio_to_mlx"] == pytest.approx(r["mlx_ms"] / r["ms"], rel=2e-3)
    result = mlxr("bench", "kernels", "--preset", "tiny", "--kernels", "rope,merge", "--reps", 1, "--csv", file, "--tag", "two")
    assert result.returncode == 0 and [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["merge", "rope"]
    with open(file, newline="") as f:
        written = list(csv.DictReader(f))
    assert [r["tag"] for r in written] == ["one"] * len(rows) + ["two"] * 2
    assert [float(r["ms"]) for r in written[:len(rows)]] == [r["ms"] for r in rows] and written[0]["mlx_version"]


def test_bad_options(tmp_path, capsys):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    for args, what in [
        (["--against", "vllm"], "--against vllm: there are llama.cpp, mlx-lm"),
        (["--reps", 0], "--reps must be at least 1"),
        (["--tg", 0], "--tg must be at least 1"),
        (["--depth", -1], "--depth must be at least 0"),
        (["--threads", 0], "--threads must be at least 1"),
        (["--pool", "1G"], "--pool cannot be chosen here"),
        (["--preset", "quick"], "--preset is an option of mlxr bench kernels"),
        (["--depth", "1,x"], "no list of whole numbers"), (["--kv", "f16,q99"], "unknown page format 'q99'"),
        (["--html", "/nowhere/b.html"], "no folder"), (["--csv", other], "other columns"),
        (["kernels", "--pp", 5], "--pp is an option of mlxr bench MODEL"),
        (["kernels", "--kernels", "attend,nothing"], "--kernels nothing: there are attend"),
        (["kernels", "--preset", "huge"], "invalid choice"),
        (["kernels", "--reps", 0], "--reps must be at least 1"),
        (["kernels", "--csv", tmp_path / "no" / "x.csv"], "there is no folder"),
        (["kernels", "--csv", other], "has other columns"),
        ([tmp_path / "no.gguf"], "no.gguf"),
    ]:
        assert main(["bench", *map(str, args)]) == 2, args
        out, err = capsys.readouterr()
        assert what in err and not out and err.startswith("mlxr: error: ") and err.count("\n") == 1, (args, err)


def test_the_automatic_page_format_is_settled_first(smollm2_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))
    result = mlxr("bench", smollm2_gguf, "--kv", "auto,q99")
    assert result.returncode == 2 and "kv auto: q8" in result.stderr and "--kv-auto-validate" not in result.stderr and "'q99'" in result.stderr


def test_a_format_without_its_calibration_is_refused_before_anything_is_loaded(smollm2_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))
    assert "needs a calibration of the model; run `mlxr calibrate" in refused("bench", smollm2_gguf, "--kv", "f16,q3")


@pytest.mark.slow
def test_a_depth_past_the_models_context_is_measured_and_said(smollm2_gguf):
    result = mlxr("bench", smollm2_gguf, "--pp", 8, "--tg", 4, "--depth", 9000, "--batch", "1,2", "--kv", "q4", "--reps", 2, "--json", timeout=400)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [c["past_context"] for c in report["cells"]] == [True, True] and all("past this model's context of 8192" in n for n in report["notes"])
    assert len(report["notes"]) == 2 and report["fill_seconds"] is None and report["prefill_tps"] > 1 and report["decode_tps"] > 1


def test_a_cell_without_memory_is_refused_before_it_is_tried(smollm2_gguf):
    result = mlxr("bench", smollm2_gguf, "--depth", 10 ** 7, "--batch", 100)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 2 and "GiB are available; lower --depth or --batch" in last and "Traceback" not in result.stderr
