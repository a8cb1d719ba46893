"""Calibration: what is fitted, the file and what is refused, and pages that go by it in an engine."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from helpers.command import refused
from helpers.quality import WIDE, byte_engine, passages_text
from helpers.tiny import relative
from mlxr import calibration
from mlxr.errors import ConfigError, RequestError
from mlxr.pages.formats.calibrated import LEFT, LEFT_WIDE, Calibrated, Tables, allocate, lost
from mlxr.pages.formats.calibrated import WIDE as WIDE_BITS
from mlxr.quality import fitting, gains, statistics
from mlxr.quality.calibrate import calibrate_engine
from mlxr.quality.teacher import Feed, window_tokens
from mlxr.quality.texts import calibration_text, shipped_text
from mlxr.quality.validation import Plan, Quiet, Validation

ROOM = 1 << 22


def engine(**more):
    return byte_engine(WIDE, scale=1.0, pool_bytes=ROOM, **{"page_size": 32, **more})


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """(file, report) of a small random model's calibration."""
    file = tmp_path_factory.mktemp("calibration") / "c.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLXR_BACKEND", "reference")
        return file, calibrate_engine(engine(), replace(passages_text(20000), holds=("a-part",)), windows=4, context=128, out=file)


def scores(one, window, context=128):
    with Feed(one, [window], context) as feed:
        feed.prefill()
        return np.array(feed.score(0)), [np.array(x) for x in feed.stored(0, 0)], np.array(feed.decode(0, 40))


@pytest.mark.parametrize("kv, limit", [("k:q3:bits=3,v:f32", 0.3), pytest.param("k:q2:block=16,v:f32", 0.6, marks=pytest.mark.slow)])
def test_pages_go_by_the_file(backend, calibrated, kv, limit):
    """K comes back rotated as it was; chunks and single tokens give the same logits."""
    file, report = calibrated
    assert report["layers"] == report["before_rope"] == 3 and report["tokens"] == 512
    window = [b % 131 for b in shipped_text().content[30000:30000 + window_tokens(128)].encode()]
    logits, plain, _ = scores(engine(), window)
    one = engine(kv=kv, calibration=str(file))
    ours, stored, decoded = scores(one, window)
    assert relative(stored[0] - plain[0].mean(axis=0), plain[0] - plain[0].mean(axis=0)) < limit
    assert 1e-4 < relative(ours, logits) < 1 and relative(decoded, ours[:40]) < 1e-4
    one.scheduler.token_budget = 40
    assert relative(scores(one, window)[0], ours) < 2e-2


def test_a_validation_on_the_text_of_the_calibration_says_so(calibrated):
    plan = Plan(("q8", "q3"), contexts=(128,), windows=2)
    base = engine(calibration=str(calibrated[0]))
    same, other = (Validation(base, plan, passages_text(n), Quiet()).notes for n in (20000, 10000))
    assert len(same) == 1 and same[0].startswith("q3: the calibration has read this text") and not other
    assert calibration.texts_read(base.name, base.model_config, str(calibrated[0])) == [passages_text(20000).digest, "a-part"]


def test_what_is_read_where_no_text_is_named():
    """Prose, and as much program text; a validation on the prose alone is known to be of what was read."""
    text, prose = calibration_text(), shipped_text()
    source = text.content.removeprefix(prose.content)
    assert text.holds == (prose.digest,) and "\ndef " in source and abs(len(source) - len(prose.content)) < 10


@pytest.mark.parametrize("kv", ["q3", "q2", "k:q3:bits=4,v:q2"])
def test_kernels_are_their_twins(calibrated, monkeypatch, kv):
    one = engine(kv=kv, calibration=str(calibrated[0]))
    layer = one.pool.layers[0]
    assert (layer.format.k.tables.bits == WIDE_BITS).sum() > 1 or "4" not in kv
    k, v = mx.random.normal((3, 1, 32, 64)), mx.random.normal((3, 1, 32, 64))
    at = mx.array([0, 1, 7])
    twin = layer.format.encode(k, v, at)
    rows = mx.arange(96, dtype=mx.int32) + layer.k_tail.shape[0]
    from mlxr.kernels.seal import seal

    flat = [x.swapaxes(1, 2).reshape(96, 1, 64) for x in (k, v)]
    pool = seal(mx.zeros((4, *layer.records.shape[1:]), mx.uint32), layer.format, 32, mx.array([1, 2, 3]), rows, layer.k_tail,
                layer.v_tail, *flat, at)
    ours, theirs = (layer.format.decode(w, 32, 64, 64, at) for w in (pool[1:], twin))
    assert all(relative(np.array(a), np.array(b)) < 2e-2 for a, b in zip(ours, theirs))       # a code here and there
    assert (np.array(pool[1:]) != np.array(twin)).mean() < 0.1


def test_a_transform_is_undone_and_weighs_errors():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 16, 16))
    covariance, metric = a @ a.T, b @ b.T
    forward, inverse, variances = fitting.transform(covariance, metric)
    assert relative(forward @ inverse, np.eye(16)) < 1e-8 and (np.diff(variances) <= 0).all()
    assert relative(forward @ covariance @ forward.T, np.eye(16)) < 1e-2
    e = rng.standard_normal(16)
    assert np.isclose((e * e * variances).sum(), (inverse @ e) @ metric @ (inverse @ e), rtol=1e-2)


def test_first_tokens_values_are_kept_as_far_as_they_are_alike():
    rng = np.random.default_rng(0)
    one = statistics.HeadStatistics(2, 16, 32, np.zeros(8), np.arange(16).reshape(8, 2))
    alike, q, k = rng.standard_normal(32), mx.zeros((3, 2, 16)), mx.zeros((3, 2, 16))
    for _ in range(8):
        v = rng.standard_normal((3, 2, 32))
        v[0, 0] = alike + 0.01 * v[0, 0]
        one.add(q, k, mx.array(v.astype(np.float32)), np.arange(3))
    assert relative(one.values()[0], alike) < 0.02
    assert np.linalg.norm(one.values()[1]) < 0.7 * np.linalg.norm(one.first_value[1] / 8)


def test_the_map_of_k_to_v_is_found():
    rng = np.random.default_rng(0)
    one = statistics.HeadStatistics(2, 16, 32, np.zeros(8), np.arange(16).reshape(8, 2))
    truth, mean = rng.standard_normal((2, 32, 16)), rng.standard_normal((2, 32))
    for _ in range(4):
        k = rng.standard_normal((500, 2, 16)) + 1
        v = np.einsum("hvd,thd->thv", truth, k - 1) + mean + 0.1 * rng.standard_normal((500, 2, 32))
        one.add(mx.zeros((500, 2, 16)), *(mx.array(x.astype(np.float32)) for x in (k, v)), np.arange(1, 501))
    found_mean, found = one.given()
    assert relative(found, truth) < 0.01
    assert relative(found_mean, mean + np.einsum("hvd,hd->hv", truth, one.mean / one.count - 1)) < 0.01


@pytest.mark.parametrize("kv", ["q3", "q2"])
def test_tokens_like_first_ones_are_nearly_exact(calibrated, kv):
    """The first of a sequence, one further on, and one of a later page; not one that has their V with another K."""
    layer = engine(kv=kv, calibration=str(calibrated[0])).pool.layers[0]
    tables, at = layer.format.k.need(), mx.array([0, 4])
    alike, scale = [(0, 0), (0, 2), (1, 7)], 0.03 * mx.linalg.norm(tables.first)
    k, v = tables.mean[:, None] + scale * mx.random.normal((2, 1, 32, 64)), mx.random.normal((2, 1, 32, 64))
    for i, t in alike:
        k[i, :, t] = tables.mean + tables.first + 0.1 * scale * mx.random.normal(tables.first.shape)
    k = tables.turned(k, at)[..., tables.back]
    words = layer.format.k.encode(k, at)
    found = np.array(layer.format.k.coefficients(words, 32)[1])[:, 0]
    known = layer.format.k.values(words, 32)
    for i, t in [*alike, (1, 9)]:
        v[i, :, t] = known[0, :, 0] + 0.01 * mx.random.normal(v[i, :, t].shape)
    stored = layer.format.decode(layer.format.encode(k, v, at), 32, 64, 64, at)
    errors = [np.array(mx.linalg.norm(a - b, axis=-1)[:, 0]) for a, b in zip(stored, (k, v))]
    assert {tuple(x) for x in np.argwhere(found)} == set(alike)
    assert all(e[i, t] < 0.15 for e in errors for i, t in alike)
    assert errors[1][1, 9] > 0.2 or np.linalg.norm(np.array(tables.first_value)) < 0.5


def test_more_bits_are_no_worse_where_k_has_few_directions():
    """K of 3 directions in 32, with noise that is louder than in calibration: what is nearly nothing must not set gains."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((3, 32)) / 32**0.5
    keys = [rng.standard_normal((n, 3)) @ basis + noise * rng.standard_normal((n, 32)) for n, noise in ((2048, 1e-5), (64, 1e-3))]
    half = np.arange(16)
    fitted = fitting.fit_layer(np.zeros((1, 32)), np.zeros((1, 32)), np.cov(keys[0].T)[None], np.eye(32)[None],
                               keys[0][:, None], np.zeros(16), np.stack([half, half + 16], 1), [32])
    fitted = {n.removeprefix("32."): a for n, a in fitted.items()} | {
        "first_value": np.zeros((1, 32)), "value_mean": np.zeros((1, 32)), "value_map": np.zeros((1, 32, 32))}
    x, errors = mx.array(keys[1].astype(np.float32))[None, None], []
    for bits in (1, 2, 3, 4):
        k = Calibrated(bits=bits, tables=Tables(fitted, bits, 64, 2))
        out = k.decode(k.encode(x, mx.array([1])), 64, 32, mx.array([1]))
        errors.append(relative(np.array(out)[0, 0], keys[1]))
    assert all(b <= 1.02 * a for a, b in zip(errors, errors[1:])) and errors[-1] < 0.1, errors


def test_large_coefficients_have_eight_bits():
    """Where five would leave more of one than of all others; all bits are spent, and more of them leave less."""
    variances = np.exp(-np.arange(64) / 4.0)
    left = np.r_[LEFT, [LEFT_WIDE] * 3]
    for total in (65, 128, 200, 256):
        bits = allocate(variances, total)
        assert bits.sum() == total and set(bits) <= {0, 1, 2, 3, 4, 5, 8} and (np.diff(bits) <= 0).all()
        assert lost(variances[None], total) == pytest.approx((variances * left[bits]).sum())
    assert (allocate(variances, 65) == 8).sum() < (allocate(variances, 256) == 8).sum() > 5
    assert (np.diff([lost(variances[None], n) for n in range(65, 256)]) < 0).all()
    assert (allocate(np.ones(64), 200) == 8).sum() == 1


def test_levels_are_where_the_numbers_are():
    x = np.random.default_rng(0).standard_normal(20000)
    levels = fitting.lloyd(x, 4)
    assert np.allclose(levels, [-1.5104, -0.4528, 0.4528, 1.5104], atol=0.05)


def test_queries_are_met_at_all_distances():
    """Turning the metric by a distance leaves its trace; without rotation nothing changes."""
    rng = np.random.default_rng(0)
    half = np.arange(8)
    pairs, moments = np.stack([half, half + 8], 1), np.cov(rng.standard_normal((16, 100)))[None]
    still = statistics.met(moments, np.zeros(8), pairs, 100, rng)
    turned = statistics.met(moments, np.linspace(0.1, 1, 8), pairs, 100, rng)
    assert np.allclose(still, moments) and np.isclose(np.trace(turned[0]), np.trace(moments[0]))
    assert np.abs(turned[0][0, 1]) < np.abs(moments[0][0, 1]) and np.allclose(turned[0], turned[0].T)


def test_what_is_refused(calibrated, tmp_path, smollm2_gguf, monkeypatch):
    file, _ = calibrated
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="is the calibration of another model"):
        byte_engine({**WIDE, "rope_theta": 5000.0}, pool_bytes=ROOM, page_size=32, kv="q3", calibration=str(file))
    with pytest.raises(ConfigError, match="needs a calibration of the model; run `mlxr calibrate"):
        engine(kv="q3")
    with pytest.raises(ConfigError, match="there is no calibration file /no/such"):
        engine(kv="q3", calibration="/no/such")
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="is no calibration file"):
        engine(kv="q3", calibration=str(tmp_path / "bad"))
    mx.save_safetensors(str(tmp_path / "other.safetensors"), {"a": mx.zeros((8,))})
    with pytest.raises(ConfigError, match="is no calibration file of this version"):
        calibration.load(tmp_path / "other.safetensors")
    arrays, metadata = mx.load(str(file), return_metadata=True)
    mx.save_safetensors(str(tmp_path / "old.safetensors"), arrays, {**metadata, "kind": "mlxr calibration 1"})
    with pytest.raises(ConfigError, match="is no calibration file of this version; run `mlxr calibrate` again"):
        engine(kv="q3", calibration=str(tmp_path / "old.safetensors"))
    with pytest.raises(RequestError, match="is too short"):
        calibrate_engine(engine(), passages_text(100), windows=4, context=128, out=tmp_path / "x")
    with pytest.raises(ConfigError, match="a context is a whole number of pages"):
        calibrate_engine(engine(), passages_text(), windows=4, context=100, out=tmp_path / "x")
    said = refused("generate", smollm2_gguf, "--kv", "q3", "--prompt", "Hi", "--calibration", file)
    assert "is the calibration of another model" in said


@pytest.mark.parametrize("args, what", [
    (["--windows", 1], "--windows must be at least 2"), (["--out", "/no/folder/x"], "there is no folder /no/folder"),
    (["--text", "/no/such.txt"], "--text: cannot read /no/such.txt")])
def test_bad_options(capsys, args, what):
    from mlxr.cli.main import main

    assert main(["calibrate", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and what in err


def test_gains_are_measured_on_passages_between(tmp_path):
    """Each part of the calibration by itself; windows that were fitted to are none of them."""
    text = passages_text(30000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLXR_BACKEND", "reference")
        report = calibrate_engine(engine(), text, windows=3, context=64, out=tmp_path / "c", gains_on=2)
    rows = report["gains"]
    assert [r["format"] for r in rows] == ["q3"] * 6 + ["q3,skip=0,-1", "q3,sink=1"] and report["gains_windows"] == 2
    assert all(r["kl"] > 0 and r["kl_se"] is not None for r in rows)
    assert rows[5]["kl"] < rows[0]["kl"] + rows[0]["kl_se"]                  # of random weights: K has hardly any structure
    assert rows[6]["kl"] < rows[5]["kl"] and rows[6]["bits"] > rows[5]["bits"]
    seen = gains.between([[0]] * 3, 30, [], list(range(300)))
    assert [w[0] for w in seen] == [(0 + 135) // 2, (135 + 270) // 2] and not gains.between([[0]] * 9, 60, [], list(range(300)))


def test_parts_left_out_are_left_out(calibrated):
    """Without the transform, K's channels are what is coded; with everything, the calibration is as it was."""
    arrays, _ = calibration.load(calibrated[0])
    steps = gains.variants(arrays)
    assert all(steps[-1][1][n] is a for n, a in arrays.items())
    one, at = steps[1][1], "layers.0.64."
    product = one[at + "forward"] @ one[at + "inverse"]
    assert np.allclose(product, np.eye(64), atol=1e-5) and np.count_nonzero(one[at + "forward"]) == product.shape[0] * 64
    assert not steps[0][1]["layers.0.mean"].any() and steps[1][1]["layers.0.mean"].any()
    assert np.allclose(np.diff(steps[0][1][at + "levels"][0, 4:12]), 0.5860)


def test_layers_have_bits_by_what_they_cost(calibrated, tmp_path, monkeypatch):
    """What is measured is in the file and decides; a file without it is refused for fit alone."""
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    file = tmp_path / "c.safetensors"
    report = calibrate_engine(engine(), passages_text(20000), windows=2, context=64, out=file, costs_on=1)
    arrays, metadata = calibration.load(file)
    measured = calibration.costs(arrays)
    assert (measured > 0).all() and np.allclose(report["costs"], measured)
    for layer, part in ((0, 0), (2, 1)):
        loud = np.full((3, 2), 1e-6)
        loud[layer, part] = 1
        calibration.save(file, arrays | {f"layers.{i}.cost": c for i, c in enumerate(loud)}, metadata)
        formats = engine(kv="fit:bits=2.3", calibration=str(file)).pool.formats
        bits = np.array([(f.k.bits, f.v.width) for f in formats])
        assert np.argmax(bits[:, part]) == layer and bits[layer, part] > np.delete(bits[:, part], layer).max()
    skipped = engine(kv="fit,skip=1", calibration=str(file)).pool.formats
    assert [f.k.before_rope for f in skipped] == [True, False, True]
    with pytest.raises(ConfigError, match="this calibration did not measure; run `mlxr calibrate` again"):
        engine(kv="fit", calibration=str(calibrated[0]))
