"""Every architecture of mlx-lm runs through the paged seam in its mode, and gives mlx-lm's own logits."""

from pathlib import Path

import mlx.core as mx
import pytest
from helpers.architectures import LIMIT, Rig, markdown, measure, serve
from helpers.readme import block
from models.tiny_configs import CONFIGS, NOT_RUNNABLE, UNEVEN, tiny_model

from mlxr.errors import UnsupportedModel
from mlxr.models import modes, seam, zoo
from mlxr.models.modes import GATHERED, MODES, PAGED, REFUSALS, REFUSED, SERIAL


@pytest.mark.parametrize("name", sorted(MODES))
def test_logits_are_stock_mlx_lm_s(name):
    assert measure(name, MODES[name]) <= LIMIT


def test_the_table_covers_every_architecture():
    assert sorted([*MODES, *REFUSALS]) == zoo.architectures()
    assert sorted([*CONFIGS, *NOT_RUNNABLE]) == zoo.architectures()
    assert not set(NOT_RUNNABLE) & set(MODES)


def test_at_least_eighty_architectures_run_straight_on_pages():
    assert sum(mode in (PAGED, SERIAL) for mode in MODES.values()) >= 80


def test_the_batches_are_what_they_claim_to_be():
    """Chunks end inside pages, pages are sealed, a step holds three decoding sequences and a prefill chunk."""
    rig = serve(tiny_model("llama"), PAGED)
    assert rig.counts[:3] == [[7], [20], [13]]
    assert [1, 1, 1, 20] in rig.counts and [1, 1, 1, 14] in rig.counts
    assert sum(len(s.pages) for s in rig.scripts) >= 5


def test_a_wrong_page_is_noticed():
    rig = Rig(tiny_model("llama"), PAGED)
    sequence = rig.add(50, 40, seed=1)
    rig.step()
    assert rig.distance(sequence) <= LIMIT
    sequence.pages.reverse()
    rig.step()
    assert rig.distance(sequence) > 10 * LIMIT


def _decoding_apart(name):
    """How far stock mlx-lm's last logits are apart for 30 tokens in one go and one by one."""
    model, tokens = tiny_model(name), mx.array([[5 + 3 * i % 113 for i in range(30)]])
    whole = model(tokens, cache=seam.stock_caches(model))[0, -1]
    caches = seam.stock_caches(model)
    for i in range(30):
        last = model(tokens[:, i:i + 1], cache=caches)[0, -1]
    return (mx.linalg.norm(last - whole) / mx.linalg.norm(whole)).item()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_reference_is_sound(name):
    """Stock mlx-lm decodes as it prefills, but for the architectures that are said not to."""
    assert (_decoding_apart(name) > LIMIT) == (name in UNEVEN)


def test_dynamic_scaling_runs_one_sequence_at_a_time():
    plain = {**CONFIGS["qwen2"], "rope_scaling": None}
    assert modes.settle(PAGED, zoo.instantiate(plain)) == PAGED
    dynamic = {**plain, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    assert modes.settle(PAGED, zoo.instantiate(dynamic)) == SERIAL
    assert modes.settle(GATHERED, zoo.instantiate(dynamic)) == GATHERED


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_refusals_are_told_by_name(name):
    mode, note = modes.mode_of(name)
    assert mode == REFUSED and note == REFUSALS[name]


def test_notes_name_the_architecture():
    assert modes.mode_of("llama") == (PAGED, None)
    assert modes.mode_of("gemma2")[0] == GATHERED and "gemma2" in modes.mode_of("gemma2")[1]
    mode, note = modes.mode_of("not_yet_invented")
    assert mode == GATHERED and "not_yet_invented" in note


@pytest.mark.skipif(mx.metal.is_available(), reason="about machines without Metal")
def test_metal_only_layers_are_refused_without_metal():
    assert modes.mode_of("bitnet")[0] == REFUSED


def test_caches_of_unknown_kinds_are_refused():
    with pytest.raises(UnsupportedModel, match="LayerCache"):
        serve(tiny_model("deepseek_v41"), PAGED)


def test_the_readme_shows_the_table():
    """Otherwise run tools/architectures."""
    assert block(Path(__file__).resolve().parents[2] / "README.md", "architectures") == markdown()
