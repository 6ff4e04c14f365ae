"""Dose and response against sums by hand; statistics against scipy; what a useful dose is."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from core.clamps.clamp import Sampling, clamp_edit
from core.clamps.doses import DoseData, Doses, at_dose_one, mean_interval, summarise, useful_dose
from core.errors import UsageError
from core.records import Clamp, Site
from core.saes import SAEConfig
from tests.support.tiny import WIDTH, sae_of, token_rows

pytestmark = pytest.mark.numeric

SITE, ROWS, TARGETS = Site("resid_post", 1), token_rows(4, 10), [17, 200]
WRITING = Sampling(
    ["the cat", "snow falls", "def run", "the dog", "in winter", "sun"], 8, 1.0, (0, 1)
)


@pytest.fixture(scope="module")
def sae():
    """Feature 5 never fires."""
    sae = sae_of(SAEConfig("tied_l1", "relu"), WIDTH, 24)
    sae.b_enc[5] = -1e6
    return sae


def doses(gpt2, sae, feature, maximum=3.0, others=(7, 11), writing=WRITING):
    clamps = at_dose_one([Clamp(feature, "set", 1.0, relative=True)], {feature: maximum})
    return Doses(
        gpt2, SITE, sae, clamps, {feature: maximum}, DoseData(ROWS, TARGETS, writing, list(others))
    )


def test_a_dose_that_changes_nothing_moves_nothing(gpt2, sae):
    (row,) = doses(gpt2, sae, 5).measure([0.0])["doses"]
    for prefix in ("", "random_", "feature_"):
        assert [row[prefix + key] for key in ("kl", "target", "loss")] == pytest.approx(
            [0] * 3, abs=1e-6
        )
        assert (
            row[prefix + "perplexity"] == pytest.approx(row["perplexity"])
            and row[prefix + "found"] == 0
        )


def test_text_measures_are_the_sums_by_hand(gpt2, sae):
    bench = doses(gpt2, sae, 3)
    edit = clamp_edit(sae, [Clamp(3, "set", 12.0)])
    clean, new = (
        torch.nn.functional.log_softmax(t.double(), -1)
        for t in (gpt2.logits(ROWS), gpt2.logits(ROWS, SITE, edit))
    )
    silent = sae.encode(gpt2.read(SITE, ROWS).float())[..., 3] == 0
    found = bench.measure_on_text(edit)
    for r in range(4):
        kl = [float((clean[r, t].exp() * (clean[r, t] - new[r, t])).sum()) for t in range(1, 10)]
        target = [
            math.log(new[r, t, TARGETS].exp().sum()) - math.log(clean[r, t, TARGETS].exp().sum())
            for t in range(1, 10)
        ]
        loss = [
            float(clean[r, t, ROWS[r, t + 1]] - new[r, t, ROWS[r, t + 1]])
            for t in range(1, 9)
            if silent[r, t]
        ]
        assert found["kl"][r] == pytest.approx(np.mean(kl), rel=1e-3) and found["kl"][r] > 0
        assert found["target"][r] == pytest.approx(np.mean(target), rel=1e-3, abs=1e-5)
        assert found["loss"][r] == pytest.approx(np.mean(loss), rel=1e-3, abs=1e-5)


def test_writing_is_read_back_without_the_clamp(gpt2, sae):
    """One continuation at a time, its loss, pairs and activations summed by hand."""
    bench = doses(gpt2, sae, 3)
    edit = clamp_edit(sae, [Clamp(3, "set", 40.0)])
    found = bench.measure_on_generations(bench.generate(edit))
    for i, (prompt, seed) in enumerate(WRITING.every):
        (made,) = gpt2.generate([prompt], 8, SITE, seeds=[seed], edit=edit)
        new, ids = made.tokens[made.n_prompt :], torch.tensor([made.tokens])
        logs = gpt2.logits(ids)[0].double().log_softmax(-1)
        nll = [-float(logs[t - 1, made.tokens[t]]) for t in range(made.n_prompt, len(made.tokens))]
        active = sae.encode(gpt2.read(SITE, ids)[0].float())[made.n_prompt :, 3]
        assert found["nll"][i] == pytest.approx(np.mean(nll), rel=1e-4)
        assert found["found"][i] == pytest.approx(float(active.mean()) / 3.0, rel=1e-3, abs=1e-6)
        pairs = [tuple(new[k : k + 2]) for k in range(len(new) - 1)]
        assert (
            found["distinct"][i] == pytest.approx(len(set(pairs)) / len(pairs))
            if pairs
            else math.isnan(found["distinct"][i])
        )
        assert found["own"][i] == pytest.approx(sum(t in TARGETS for t in new) / len(new))


def test_controls_are_as_long_as_the_clamp(gpt2, sae):
    x = gpt2.read(SITE, ROWS).clone()
    held = torch.ones(4, 10, dtype=torch.bool)
    lengths = [
        (edit(x, held) - x).norm(dim=-1)
        for edit in doses(gpt2, sae, 3, others=[7]).edits(2.0, 4).values()
    ]
    torch.testing.assert_close(lengths[1], lengths[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lengths[2], lengths[0], rtol=1e-4, atol=1e-4)
    control = doses(gpt2, sae, 3, others=[7]).edits(2.0, 4)["feature_"](x, held) - x
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(control, sae.W_dec[7].expand_as(control), dim=-1),
        torch.ones(4, 10),
        rtol=1e-3,
        atol=1e-3,
    )


def read_alone(bench):
    return bench.measure_on_generations(bench.generate(None))["found"]


def test_texts_at_each_dose_are_kept_of_prompts_that_did_not_choose_it(gpt2, sae):
    """They are those that the same clamp writes alone, from the same seed."""
    bench = doses(gpt2, sae, 3)
    kept = bench.measure([0.0, 2.0])["dose_texts"]
    prompts = list(dict.fromkeys(p for p, _ in WRITING.every))
    assert [entry["prompt"] for entry in kept] == (prompts[1::2] or prompts)[: len(kept)]
    for entry in kept:
        assert [d["dose"] for d in entry["doses"]] == [0.0, 2.0]
        seed = WRITING.seeds[0]
        (plain,) = gpt2.generate([entry["prompt"]], 8, SITE, seeds=[seed])
        edit = bench.edits(2.0, 1)[""]
        (clamped,) = gpt2.generate([entry["prompt"]], 8, SITE, seeds=[seed], edit=edit)
        assert entry["baseline"] == plain.text
        assert entry["doses"][1]["clamped"] == clamped.text
        assert isinstance(entry["doses"][1]["random"], str)


def test_several_clamps_grow_together(gpt2, sae):
    """At dose 2 each has twice its value; the loss is that of tokens where both are silent, and
    what is found is their mean share."""
    maxima = {3: 4.0, 7: 2.0}
    clamps = at_dose_one([Clamp(3, "set", 2.0, relative=True), Clamp(7, "add", 1.5)], maxima)
    assert clamps == [Clamp(3, "set", 8.0), Clamp(7, "add", 1.5)]
    both = Doses(gpt2, SITE, sae, clamps, maxima, DoseData(ROWS, TARGETS, WRITING, [11]))
    x, held = gpt2.read(SITE, ROWS).float(), torch.ones(4, 10, dtype=torch.bool)
    f = sae.encode(x)
    asked = torch.stack([torch.full_like(f[..., 3], 16.0), f[..., 7] + 3.0], -1)
    torch.testing.assert_close(
        both.edits(2.0, 4)[""](x, held),
        x + sae.edit(x, torch.tensor([3, 7]), asked),
        rtol=1e-4,
        atol=1e-4,
    )
    assert torch.equal(both.silent, ((f[..., 3] == 0) & (f[..., 7] == 0))[:, 1:-1])
    found = both.measure_on_generations(both.generate(None))["found"]
    alone = [read_alone(doses(gpt2, sae, feature, maxima[feature])) for feature in maxima]
    assert found == pytest.approx(np.mean(alone, 0), rel=1e-4, abs=1e-7)


def test_what_has_no_dose_is_told():
    assert at_dose_one([Clamp(3, "scale", 5.0)], {3: 4.0}) == [Clamp(3, "scale", 1.0)]
    assert at_dose_one([Clamp(3, "set", 5.0)], {3: 4.0}) == [Clamp(3, "set", 4.0)]
    with pytest.raises(UsageError, match="no dose"):
        at_dose_one([Clamp(3, "ablate", 0.0)], {3: 4.0})
    with pytest.raises(UsageError, match="never fired"):
        at_dose_one([Clamp(3, "set", 1.0), Clamp(4, "set", 1.0)], {3: 4.0, 4: 0.0})


def test_the_same_bench_measures_the_same(gpt2, sae):
    assert doses(gpt2, sae, 3).measure([1.0, 2.0]) == doses(gpt2, sae, 3).measure([1.0, 2.0])


def test_the_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 7.0, np.nan])
    known = values[:4]
    low, high = stats.t.interval(0.95, 3, loc=known.mean(), scale=stats.sem(known))
    assert mean_interval(values) == pytest.approx((3.5, low, high))
    assert math.isnan(mean_interval(values[:2])[1]) and math.isnan(mean_interval(values[4:])[0])


def test_summaries_know_their_units():
    row = summarise(
        {
            "nll": np.array([1.0, 1.0, 1.0]),
            "own": np.array([0.9, 1.0, 1.0]),
            "kl": np.array([np.nan] * 3),
        },
        "x_",
    )
    assert (
        row["x_perplexity"] == pytest.approx(math.e)
        and row["x_own_high"] == 1.0
        and row["x_kl"] is None
    )


def units(own, nll=1.0, distinct=0.8, n=6):
    return {
        "own": np.full(n, own),
        "nll": np.full(n, nll),
        "distinct": np.full(n, distinct),
        "found": np.zeros(n),
    }


def test_the_useful_dose_is_the_strongest_that_stays_readable():
    raw = [
        {"": units(0.2), "random_": units(0.0), "feature_": units(0.0)},
        {"": units(0.5), "random_": units(0.1), "feature_": units(0.0)},
        {
            "": units(0.9, nll=5.0),
            "random_": units(0.0),
            "feature_": units(0.0),
        },  # more surprising than real text
        {
            "": units(1.0, distinct=0.1),
            "random_": units(0.0),
            "feature_": units(0.0),
        },  # only repeats itself
    ]
    useful = useful_dose([1, 2, 4, 8], raw, units(0.05), real_loss=3.0)
    assert (
        useful["dose"] == 2
        and useful["own"] == pytest.approx(0.5)
        and useful["random_own"] == pytest.approx(0.1)
        and useful["unclamped_own"] == pytest.approx(0.05)
    )
    assert useful_dose([4, 8], raw[2:], units(0.05), 3.0) == {
        "dose": None,
        "sought_on": 3,
        "reported_on": 3,
    }


def test_what_a_useful_dose_reports_was_not_sought_on():
    """On the prompts of even number the dose looks perfect; on the others it does nothing, and that
    is what is reported."""
    lucky = units(0.0)
    lucky["own"][::2] = 1.0
    useful = useful_dose(
        [1], [{"": lucky, "random_": units(0.0), "feature_": units(0.0)}], units(0.0), 3.0
    )
    assert useful["dose"] == 1 and useful["own"] == 0.0


def test_a_dose_can_be_useful_for_what_is_found_again():
    """A feature of a meaning writes none of its ten tokens, and the subject finds it again in the
    text."""
    meaning = units(0.0) | {"found": np.full(6, 0.4)}
    raw = [
        {"": units(0.0), "random_": units(0.0), "feature_": units(0.0)},
        {"": meaning, "random_": units(0.0), "feature_": units(0.0)},
    ]
    assert useful_dose([1, 2], raw, units(0.0), 3.0)["dose"] is None
    useful = useful_dose([1, 2], raw, units(0.0), 3.0, "found")
    assert (
        useful["dose"] == 2
        and useful["found"] == pytest.approx(0.4)
        and useful["random_found"] == 0.0
    )
