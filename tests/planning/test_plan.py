"""`mlxr plan`: bytes a token checked by hand, sizes against what an engine really allocates, Macs, rooflines, refusals."""

import gc
import json
import math
import re

import mlx.core as mx
import pytest
from helpers.command import mlxr
from helpers.tiny import tiny_engine, tiny_model

from mlxr.calibration import made_up
from mlxr.cli.main import main
from mlxr.config import EngineConfig
from mlxr.engine import load_engine
from mlxr.errors import ConfigError, UnsupportedModel
from mlxr.memory import scratch_bytes, settled_pages, table_bytes
from mlxr.pages.formats import NAMES, page_format
from mlxr.pages.pool import LayerSpec
from mlxr.planning import macs
from mlxr.planning.configs import CONFIGS
from mlxr.planning.model import from_name, from_numbers
from mlxr.planning.page import page
from mlxr.planning.plan import make_plan


def plan_of(name, **config):
    return make_plan(from_name(name), EngineConfig(**config))


@pytest.mark.parametrize("name, f16, mha, parameters", [
    ("TinyLlama-1.1B", 22 * 4 * 64 * 2 * 2, 22 * 32 * 64 * 2 * 2, 1_100_048_384),
    ("Llama-3-8B", 32 * 8 * 128 * 2 * 2, 32 * 32 * 128 * 2 * 2, 8_030_261_248),
    ("Qwen3-4B", 36 * 8 * 128 * 2 * 2, 36 * 32 * 128 * 2 * 2, 4_022_468_096),
    ("smollm2-360m", 32 * 5 * 64 * 2 * 2, 32 * 15 * 64 * 2 * 2, 361_821_120),
    ("smollm2-1.7b", 24 * 32 * 64 * 2 * 2, 24 * 32 * 64 * 2 * 2, 1_711_376_384)])
def test_bytes_a_token_by_hand(name, f16, mha, parameters):
    """layers x KV heads x head size x 2 (K and V) x 2 bytes; q8 adds a scale and an offset (fp16) a channel and a token."""
    p = plan_of(name)
    assert (p["bytes_per_token"]["f16"], p["bytes_per_token_without_gqa"]["f16"], p["parameters"]) == (f16, mha, parameters)
    d, heads = p["head_dim"], p["layers"] * p["kv_heads"]
    record = 64 * d * 2 + d * 4 + 64 * 4
    assert p["bytes_per_token"]["q8"] == heads * record / 64
    assert p["weights_bytes"] == 2 * parameters


def test_tinyllama_takes_22528_bytes_a_token(capsys):
    assert main("plan --layers 22 --heads 32 --kv-heads 4 --head-dim 64 --json".split()) == 0
    p = json.loads(capsys.readouterr().out)
    assert p["bytes_per_token"]["f16"] == 22528 and p["weights_bytes"] is None
    assert p["growth"][0] == {"tokens": 1024, "bytes": {f: math.ceil(b * 1024) for f, b in p["bytes_per_token"].items()}}
    assert p["growth"][-1]["tokens"] == 1 << 20 and p["growth"][-1]["bytes"]["f16"] == 22528 << 20
    assert all(m["formats"]["f16"]["decode_tps"] is None for m in p["macs"])


def test_the_automatic_page_format_is_settled_first(capsys, smollm2_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))
    assert main(["plan", str(smollm2_gguf), "--kv", "auto", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["here"]["page_format"] == "q8" and "kv auto: q8, this model was not validated" in err


def test_first_tokens_in_f16_and_decoded_pages_take_room():
    """Two pages of q4 as fp16 for each user, and 1 GiB of decoded pages (whole ones, and the one that is nobody's)."""
    plain, sink, decoded = (next(m for m in plan_of("llama-3-8b", kv="q4", **more)["macs"] if m["memory_gb"] == 64)["formats"]["q4"]
                            for more in ({}, {"kv_sink": 128}, {"kv_dequant_cache": 1 << 30}))
    f16 = 32 * 8 * 2 * 128 * 64 * 2
    page, token = plan_of("llama-3-8b")["bytes_per_token"]["q4"] * 64, plan_of("llama-3-8b")["bytes_per_token"]["q4"]
    assert abs((plain["tokens"] - sink["tokens"]) * token - (3 * f16 - 2 * page)) < page
    assert abs((plain["tokens"] - decoded["tokens"]) * token - ((1 << 30) // f16 + 1) * f16) < page
    assert sink["users_8k"] < plain["users_8k"]


def test_formats_that_need_a_calibration_are_named(capsys):
    assert main("plan llama-3-8b".split()) == 0
    text = capsys.readouterr().out
    assert "q3+" in text and "(+: after `mlxr calibrate`)" in text and "q3, fit, q2: to use, calibrate the model first: mlxr calibrate" in text
    p = plan_of("llama-3-8b")
    assert p["needs_calibration"] == ["q3", "fit", "q2"] and "mlxr calibrate" in page(p)
    assert set(p["needs_calibration"]) == {n for n in NAMES if page_format(n).needs_calibration}


@pytest.fixture(scope="module", params=["gguf", pytest.param("fp32", marks=pytest.mark.slow)])
def model_path(request, smollm2_gguf):
    return smollm2_gguf if request.param == "gguf" else request.getfixturevalue("smollm2_fp32")


def test_sizes_are_what_an_engine_allocates(model_path):
    """Within 1 % of what MLX has allocated when the engine stands; pool and tails to the byte."""
    for options in ({"kv": "q8", "pool_bytes": 60 << 20}, {"kv": "f16", "context": 2000}):
        planned = plan_of(model_path, **options)["here"]
        gc.collect()
        mx.clear_cache()
        before = mx.get_active_memory()
        engine = load_engine(model_path, EngineConfig(**options))
        real, info = mx.get_active_memory() - before, engine.info()
        assert planned["pages"] == info["pages"] and planned["pool_bytes"] == info["pool_bytes"]
        assert (planned["tail_bytes"], planned["tail_bytes_most"]) == (info["tail_bytes"], info["tail_bytes_most"])
        assert planned["scratch_bytes"] == info["scratch_bytes"]
        assert planned["weights_bytes"] == pytest.approx(info["weights_bytes"], rel=0.01)
        assert planned["allocated_bytes"] == pytest.approx(real, rel=0.01), (planned, info)
        del engine


@pytest.mark.parametrize("name", ["q3", "q2", "q3:bits=1.75"])
@pytest.mark.parametrize("dim, v_dim", [(64, 64), (128, 64)])
def test_tables_of_a_calibration_are_counted(name, dim, v_dim):
    """What calibrated formats keep beside pages, to the byte; an engine and a plan count it with this function."""
    fitted = made_up(page_format(f"k:{name},v:q8"), 3, dim, v_dim, 64, 40)
    arrays = [a for a in vars(fitted.k.tables).values() if isinstance(a, mx.array)]
    assert sum(a.nbytes for a in arrays) == table_bytes([LayerSpec(3, dim, v_dim)], fitted, 64, 40 * 64)
    assert table_bytes([LayerSpec(3, dim, v_dim)], page_format("q4"), 64, 4096) == 0
    with_tables = plan_of("llama-3-8b", kv=name, context=2048)["here"]
    assert with_tables["table_bytes"] > 32 * 8 * 2 * 128 * 64 * 4 and plan_of("llama-3-8b", context=2048)["here"]["table_bytes"] == 0


@pytest.mark.parametrize("share", [None, 0.5])
def test_the_budget_is_the_engines(share):
    engine = tiny_engine(tiny_model(), pool_bytes=None if share else 1 << 20, memory_share=share, kv="q8")
    scratch = scratch_bytes(engine.model_config, engine.vocabulary, engine.config.token_budget, engine.config.max_batch)
    assert engine.pool.pages == settled_pages(engine.specs, engine.pool.formats, engine.config, engine.context, engine.weights_bytes,
                                              scratch, engine.dtype)


def test_macs_hold_what_the_table_says():
    """The row of one Mac, reckoned again: context and users from the bytes, decode from bandwidth over bytes."""
    model = from_name("llama-3-8b", bits=4.5)
    p = make_plan(model, EngineConfig())
    assert {m["memory_gb"] for m in p["macs"]} >= {8, 16, 24, 32, 64, 128, 192, 512}
    row = next(m for m in p["macs"] if m["chip"] == "M4 Max 40-core GPU" and m["memory_gb"] == 64)
    fit, room = row["formats"]["f16"], 48 << 30
    assert row["usable_bytes"] == room and row["bandwidth_gbps"] == 546
    weights, token = int(8_030_261_248 * 4.5 / 8), 131072
    tail, scratch = 32 * 8 * 256 * 64 * 2, scratch_bytes(model.config, 128256, 512, 0, 2)
    logits = 8 * 128256 * 4
    assert fit["tokens"] == (room - weights - 64 * token - scratch - tail - logits) // (64 * token) * 64
    assert fit["users_8k"] == (room - weights - 64 * token - scratch) // (8192 * token + tail + logits)
    read = weights * (1 - 128256 * 4096 / 8_030_261_248)            # the embedding table is read a row at a time
    assert fit["decode_tps_8k"] == pytest.approx(546e9 / (read + 8192 * token), rel=2e-3)
    small = next(m for m in make_plan(from_name("llama-3-8b"), EngineConfig())["macs"] if m["memory_gb"] == 8)
    assert not small["fits"] and small["formats"]["q4"]["users_8k"] == 0


def test_decoding_is_limited_by_memory_and_prefill_by_arithmetic():
    p = plan_of("qwen3-4b")
    decode, *_, prefill = p["intensity"]
    assert set(decode["limited_by"].values()) == {"memory"} and set(prefill["limited_by"].values()) == {"arithmetic"}
    assert decode["intensity"] == pytest.approx(decode["flops"] / decode["bytes"], rel=1e-2) and decode["intensity"] < 4
    assert all(c["whole_bytes"] - c["chunk_bytes"] == c["saved_bytes"] > 0 and c["steps"] * 512 == c["prompt"] for c in p["chunked_prefill"])


def test_experts_that_no_token_takes_are_not_read():
    config = dict(model_type="mixtral", hidden_size=64, num_hidden_layers=2, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2,
                  vocab_size=128, num_local_experts=8, num_experts_per_tok=2, rms_norm_eps=1e-5)
    from mlxr.planning.model import _of_config

    model = _of_config(config, "m", "", None, None)
    assert model.expert == 2 * 8 * 3 * 64 * 128 and model.routed == 0.25 and model.table == 128 * 64
    assert model.read_share(1) == pytest.approx(1 - (model.table + model.expert * 0.75) / model.parameters)
    assert model.read_share(64) == pytest.approx(1 - model.table / model.parameters, abs=1e-6)


def test_a_config_alone_is_enough(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["qwen3-4b"], "quantization": {"bits": 4, "group_size": 64}}))
    for name in (tmp_path, tmp_path / "config.json"):
        p = plan_of(name)
        assert p["weights_bytes"] == int(4_022_468_096 * 4.5 / 8) and p["source"] == "config.json"


@pytest.mark.parametrize("brand, memory, bandwidth", [("Apple M1", 8, 68.25), ("Apple M3 Max", 36, 300), ("Apple M3 Max", 128, 400), ("Apple M4 Max", 36, 410),
                                                      ("Apple M2 Ultra", 192, 800), ("Apple M9", 8, None)])
def test_chips_by_brand(brand, memory, bandwidth):
    chip = macs.chip_named(brand, memory)
    assert (chip and chip.bandwidth) == bandwidth


def test_the_page_has_its_charts_and_needs_no_other_file():
    text = page(plan_of("llama-3-8b"))
    assert text.count("<svg") == 3 and text.count("<polyline") >= 11 and text.count('class="bars') > 20
    assert not re.search(r"(src|href)=", text) and "nan" not in text.lower().split("</style>")[1]
    assert "22" in page(make_plan(from_numbers(22, 32, 4, 64), EngineConfig()))


def test_command_prints_table_and_writes_page(tmp_path):
    result = mlxr("plan", "TinyLlama-1.1B", "--bits", "4.5", "--html", tmp_path / "p.html")
    assert result.returncode == 0 and "22,528" in result.stdout and "M5 Max 40-core GPU" in result.stdout
    assert "formula" in result.stdout and "estimates" in result.stdout and "<svg" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize("options, said", [
    ("--layers 2 --heads 4", "--kv-heads must be a whole number"), ("--layers 2 --heads 4 --kv-heads 3 --head-dim 64", "not a multiple"),
    ("llama-3-8b --layers 2", "not both"), ("--params many --layers 1", "not a number of parameters"), ("llama-3-8b --bits 900", "--bits must lie"), ("--bits 0", "--bits must lie"), ("llama-3-8b --kv auto", "there are none here"),
    ("--kv q3 --calibration /nope/c", "there is no calibration file /nope/c"),
    ("--layers 99999999999 --heads 8 --kv-heads 8 --head-dim 64", "--layers must be a whole number from 1 to 10000"),
    ("--layers 2 --heads 8 --kv-heads 8 --head-dim 64 --params 1e30", "--params must lie between"),
    ("nothing-here", "llama-3-8b"), ("llama-3-8b --kv q99", "unknown page format"), ("llama-3-8b --html /nowhere/x.html", "no folder"),
    ("llama-3-8b --pool 1k", "two pages")])
def test_refusals_are_one_line(capsys, options, said):
    assert main(["plan", *options.split()]) == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1


def test_models_that_cannot_be_planned():
    with pytest.raises(UnsupportedModel):
        make_plan(from_numbers(2, 4, 4, 20), EngineConfig(kv="q4"))
    with pytest.raises(ConfigError):
        EngineConfig(page_size=7)
