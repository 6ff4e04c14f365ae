"""What clamps change, against whole passes through the subject with an edit in every row."""

import numpy as np
import pytest
import torch

from core.effects import effects
from core.effects.effects import PREFIXES, clamp_each_row, measure_changes, read_prefixes
from core.effects.promoted import find_measured, find_promoted
from core.records import Site
from core.saes import SAEConfig
from core.subject.subject import Subject
from tests.support.tiny import (
    FAMILY_NAMES,
    WIDTH,
    Killed,
    byte_level_tokenizer,
    sae_of,
    tiny_model,
)

pytestmark = pytest.mark.slow  # the file as a whole

RELU, TOPK = SAEConfig("l1", "relu"), SAEConfig("topk", "topk", k=4)
FEATURES, VALUES = torch.tensor([3, 0, 17]), torch.tensor([5.0, 0.5, 40.0])
ANYWHERE = ("resid_pre.0", "resid_pre.1", "attn_z.1", "attn_out.0", "mlp_out.1", "resid_post.1")


def by_whole_passes(subject, site, sae, features, values):
    """Change of log-probabilities (m, V), a whole pass for each prefix with every row edited."""
    total = 0.0
    for text in PREFIXES:
        tokens = torch.tensor([subject.prompt_tokens(text)])
        edit = clamp_each_row(sae, torch.eye(len(features), dtype=torch.bool), features, values)
        rows = tokens.expand(len(features), -1)
        logs = [
            subject.logits(t, site, e)[:, -1].log_softmax(-1)
            for t, e in ((rows, edit), (tokens, None))
        ]
        total = total + logs[0] - logs[1]
    return total / len(PREFIXES)


def compare(subject, site, form=RELU):
    site = Site.parse(site)
    width = subject.read(site, torch.tensor([[0, 1]])).shape[-1]
    sae = sae_of(form, width, 24)
    with torch.inference_mode():
        expected = by_whole_passes(subject, site, sae, FEATURES, VALUES)
    measured = measure_changes(read_prefixes(subject, site, sae), sae, FEATURES, VALUES)
    assert expected.abs().max() > 0.1, "the clamps do something"
    assert measured.dtype == torch.float32
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_changes_are_those_of_whole_passes_in_every_family(subjects, family):
    subject = subjects[family]
    compare(subject, "resid_post.0")
    compare(subject, "mlp_out.1")


@pytest.mark.parametrize("site", [*ANYWHERE, "resid_mid.1"])
def test_changes_are_those_of_whole_passes_at_every_site(gpt2, site):
    compare(gpt2, site)


@pytest.mark.parametrize(
    "form",
    [
        TOPK,
        SAEConfig("l1", "relu", norm="layer_norm"),
        SAEConfig("l1", "relu", norm="constant_norm"),
    ],
)
def test_changes_are_those_of_whole_passes_for_other_saes(gpt2, form):
    compare(gpt2, "resid_post.0", form)


def test_an_unknown_architecture_is_run_whole(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "family", None)
    compare(gpt2, "transformer.h.1.output")


def test_a_subject_without_bos_has_prefixes_that_no_edit_reaches():
    subject = Subject(tiny_model("gpt2"), byte_level_tokenizer(bos=False))
    lengths = [len(subject.prompt_tokens(text)) for text in PREFIXES]
    texts = read_prefixes(subject, Site.parse("resid_post.0"), sae_of(RELU, WIDTH, 24))
    assert len(texts) == sum(length > 1 for length in lengths)
    if texts:
        compare(subject, "resid_post.0")


def test_the_subject_is_as_before(gpt2):
    tokens = torch.tensor([[0, 5, 9, 11]])
    before = gpt2.logits(tokens)
    compare(gpt2, "resid_post.1")
    assert torch.equal(gpt2.logits(tokens), before)


def test_features_that_never_fired_are_zero_and_cost_nothing(gpt2, tmp_path, monkeypatch):
    site, sae = Site.parse("resid_post.0"), sae_of(RELU, gpt2.width, 24)
    values = np.zeros(24, np.float32)
    values[[2, 20]] = 3.0
    asked = []
    original = effects.measure_changes
    monkeypatch.setattr(
        effects,
        "measure_changes",
        lambda texts, sae, features, own: (
            asked.append(features.tolist()) or original(texts, sae, features, own)
        ),
    )
    effects.write_changes(effects.ChangeMaker(tmp_path, gpt2, site, sae, values, rows=7))
    written = np.load(tmp_path / "clamped.npy")
    assert asked == [[2], [20]]
    assert written.shape == (24, gpt2.n_vocabulary)
    assert np.flatnonzero(np.abs(written).max(1)).tolist() == [2, 20]
    assert [path.name for path in tmp_path.iterdir()] == ["clamped.npy"]


def test_a_killed_stage_measures_no_feature_twice(gpt2, tmp_path, monkeypatch):
    """Killed at the third block of four, at the joining, and not at all."""
    site, sae = Site.parse("resid_post.0"), sae_of(RELU, gpt2.width, 24)
    values = np.full(24, 3.0, np.float32)
    whole = effects.ChangeMaker(tmp_path, gpt2, site, sae, values, rows=7)
    effects.write_changes(whole)
    expected = (tmp_path / "clamped.npy").read_bytes()

    folder, asked, original = tmp_path / "killed", [], effects.measure_changes
    folder.mkdir()
    maker = effects.ChangeMaker(folder, gpt2, site, sae, values, rows=7)

    def dying(texts, sae, features, own):
        asked.append(features[0].item())
        if len(asked) == 3:
            raise Killed
        return original(texts, sae, features, own)

    monkeypatch.setattr(effects, "measure_changes", dying)
    with pytest.raises(Killed):
        effects.write_changes(maker)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(effects, "join_changes", kill)
        effects.write_changes(maker)
    effects.write_changes(maker)
    assert asked == [0, 7, 14, 14, 21]
    assert (folder / "clamped.npy").read_bytes() == expected


def kill(*_):
    raise Killed


# ---------------------------------------------------------------- tokens that mean something


def test_promoted_tokens_are_those_above_the_mean_over_features(gpt2):
    directions = torch.randn(40, gpt2.width, generator=torch.Generator().manual_seed(0))
    listed = torch.ones(gpt2.n_vocabulary, dtype=torch.bool)
    table = find_promoted(gpt2, directions, 5, listed)
    logits = gpt2.logit_lens(directions)
    own = logits - logits.mean(0)
    for feature in (0, 17, 39):
        assert table["promoted_id"][feature] == own[feature].topk(5).indices.tolist()
        assert table["promoted_logit"][feature][0] == pytest.approx(
            float(own[feature].max()), abs=1e-4
        )
        assert table["suppressed_logit"][feature][0] == pytest.approx(
            float(own[feature].min()), abs=1e-4
        )


def test_a_token_that_every_direction_promotes_leads_no_list(gpt2):
    shared = gpt2.model.get_output_embeddings().weight[7].detach().float()
    noise = torch.randn(60, gpt2.width, generator=torch.Generator().manual_seed(1))
    directions = 3 * shared / shared.norm() + 0.1 * noise
    raw = gpt2.logit_lens(directions).argmax(1).tolist()
    listed = torch.ones(gpt2.n_vocabulary, dtype=torch.bool)
    table = find_promoted(gpt2, directions, 3, listed)
    first = [row[0] for row in table["promoted_id"]]
    assert raw.count(raw[0]) > 50 and max(map(first.count, first)) < 30


def test_rare_tokens_are_left_out(gpt2):
    directions = torch.randn(8, gpt2.width, generator=torch.Generator().manual_seed(2))
    listed = torch.zeros(gpt2.n_vocabulary, dtype=torch.bool)
    listed[:40] = True
    table = find_promoted(gpt2, directions, 5, listed)
    assert all(max(row) < 40 for row in table["promoted_id"])


def test_measured_tokens_are_above_the_mean_of_clamps_that_do_something(tmp_path):
    changes = np.zeros((4, 6), np.float16)
    changes[0], changes[1], changes[3] = [5, 1, 0, 0, 0, 0], [5, 0, 2, 0, 0, 0], [6, 0, 0, 0, 0, 3]
    np.save(tmp_path / "clamped.npy", changes)
    texts, listed = list("abcdef"), torch.tensor([True] * 5 + [False])
    found = find_measured(tmp_path, texts, 2, listed)
    assert [row[:1] for row in found["measured"]] == [["b"], ["c"], [], ["a"]]
    assert found["measured_change"][0][0] == pytest.approx(1 - 1 / 3, abs=1e-3)
