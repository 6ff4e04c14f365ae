"""Edges between features at two sites: a planted circuit, and real tiny subjects by ablation."""

import pathlib

import numpy as np
import pytest
import torch

from core.attribution.attribute import Question, attribute, measure_ablations, trace
from core.attribution.edges import compute_edges
from core.attribution.runs import why_runs
from core.records import Site
from core.saes import SAE, SAEConfig
from core.subject.next_token import find_token
from core.subject.subject import Subject
from tests.core.attribution.test_attribute import (
    PROMPT,
    SITE,
    D,
    linear_subject,
    planted_sae,
)
from tests.support.tiny import WIDTH, sae_of

pytestmark = pytest.mark.numeric
MIXED = Site("input", module="unembed")
ROOT = pathlib.Path(__file__).parents[3]


class Model:
    def __init__(self, subject, sae, site):
        self.subject, self.sae, self.site = subject, sae, site


def test_edges_of_a_planted_circuit_are_known():
    """Numbers of one coordinate pass from the embedding to the unembedding by the mixture alone."""
    subject, below, above = linear_subject(), planted_sae(), planted_sae(bias=-0.1)
    models = [("low", Model(subject, below, SITE)), ("high", Model(subject, above, MIXED))]
    made = why_runs(models, PROMPT, Question(top=1000))
    ids = subject.prompt_tokens(PROMPT)
    x, mix = subject.model.embed.weight[ids], subject.model.mix
    out = subject.model.unembed.weight[find_token(subject, PROMPT, made.token)]
    end = len(ids) - 1
    mixed = (mix[: len(ids), None] * x).cumsum(0)[end]
    known = {
        (t - 1, k): float((x[t, k] - 0.25) * mix[t] * out[k])
        for t in range(1, len(ids))
        for k in range(D)
        if x[t, k] > 0.25 and mixed[k] > -0.1
    }
    assert made.edges
    found = {(e.lower_position, e.lower_feature): e.weight for e in made.edges}
    assert all(e.lower_feature == e.upper_feature for e in made.edges)
    assert all(e.upper_position == end - 1 for e in made.edges)
    assert found == pytest.approx(known, rel=1e-4, abs=1e-5)
    sizes = [abs(e.weight) for e in made.edges]
    assert sizes == sorted(sizes, reverse=True)
    assert {(e.lower, e.upper) for e in made.edges} == {("low", "high")}
    assert made.run == "low" and made.also[0].run == "high"


@pytest.mark.parametrize(
    "form",
    [
        SAEConfig("relu", "relu"),
        SAEConfig("topk", "topk", 6),
        SAEConfig("gated", "gated"),
        SAEConfig("scaled", "relu", norm="constant_norm"),
    ],
    ids=lambda form: form.name,
)
def test_an_edge_is_the_slope_of_the_upper_firing(gpt2, form):
    """A hundredth of a lower firing is taken away, and the upper pre-activation measured."""
    below = sae_of(SAEConfig("relu", "relu"), WIDTH, 24)
    above = sae_of(form, WIDTH, 24)
    low, high = Site("resid_post", 0), Site("resid_post", 1)
    lower = trace(gpt2, low, below, PROMPT, Question(top=3))[1]
    upper = trace(gpt2, high, above, PROMPT, Question(top=3))[1]
    edges = compute_edges(gpt2, lower, upper, 3)
    assert edges.shape == (3, 3)
    tokens, share = torch.tensor([lower.ids]), 0.01
    gate = above.gate_scale if form.activation == "gated" else torch.ones(24)

    def terms():
        """What each of the upper firings adds to the logit, by its pre-activation."""
        z = above.prepare(gpt2.read(high, tokens)[0].float())
        out = []
        for firing in upper.order[:3].tolist():
            t, j = (int(index[firing]) for index in upper.parts.where)
            unit = upper.parts.written[firing] / upper.parts.f[t, j]
            out.append(
                float(upper.gradient[t] @ unit) * float(gate[j] * (z[t] @ above.W_enc[:, j]))
            )
        return np.array(out)

    plain = terms()
    for column, firing in enumerate(lower.order[:3].tolist()):
        removal = share * lower.parts.removal([firing])
        with gpt2.hook(low, lambda hidden, removal=removal: hidden + removal):
            slope = (plain - terms()) / share
        np.testing.assert_allclose(slope, edges[:, column], rtol=0.1, atol=0.02)


def test_there_are_no_edges_backwards(gpt2):
    sae = sae_of(SAEConfig("relu", "relu"), WIDTH, 24)
    lower = trace(gpt2, Site("resid_post", 0), sae, PROMPT, Question(top=2))[1]
    upper = trace(gpt2, Site("resid_post", 1), sae, PROMPT, Question(top=2))[1]
    assert compute_edges(gpt2, upper, lower, 2) is None


# ---------------------------------------------------------------- transcoders


def transcoder(skip=False):
    draw = torch.Generator().manual_seed(4)
    tensors = {
        "W_enc": torch.randn(WIDTH, 24, generator=draw) * 0.4,
        "b_enc": torch.randn(24, generator=draw) * 0.2,
        "W_dec": torch.nn.functional.normalize(torch.randn(24, WIDTH, generator=draw), dim=1),
        "b_dec": torch.randn(WIDTH, generator=draw) * 0.1,
    }
    if skip:
        tensors["W_skip"] = torch.randn(WIDTH, WIDTH, generator=draw) * 0.2
    form = SAEConfig("t", "relu", subtract_b_dec=False, transcoder=True)
    return SAE(form, tensors, Site("mlp_in", 1), site_out=Site("mlp_out", 1))


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_the_parts_of_a_transcoder_s_logit_add_up_and_ablations_are_brute_force(gpt2, skip):
    sae = transcoder(skip)
    found, traced = trace(gpt2, sae.site_in, sae, PROMPT, Question(top=1000, steps=8))
    assert found.site == "mlp_out.1" and (found.skip != 0) == skip
    parts = found.features + sum(found.errors) + found.bias + found.skip + found.first + found.rest
    assert parts == pytest.approx(found.logit, abs=1e-4)
    assert abs(found.gap) < 1e-3
    tokens = torch.tensor([traced.ids])
    f = sae.encode(gpt2.read(sae.site_in, tokens)[0].float())
    token = find_token(gpt2, PROMPT, found.token)
    plain = gpt2.logits(tokens)[0, -1, token]
    for firing in found.firings[:4]:
        t = firing.position + 1
        delta = torch.zeros(1, tokens.shape[1], WIDTH)
        delta[0, t] = -f[t, firing.feature] * sae.W_dec[firing.feature]
        edited = gpt2.logits(tokens, sae.site_out, lambda h, _, delta=delta: h.float() + delta)
        assert firing.change == pytest.approx(float(edited[0, -1, token] - plain), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "least"),
    [("for i in range(", 0.95), ("def __init__(self", 0.75), ("import os\nimport", 0.8)],
)
def test_attributions_rank_as_brute_force_ablation_of_every_firing(prompt, least):
    """A trained subject and its autoencoder: every firing of a small prompt is ablated alone."""
    sae = SAE.load(ROOT / "data" / "results" / "sae")
    subject = Subject.load("python-7m", dtype="float32", device="cpu")
    found = attribute(subject, sae.site, sae, prompt, Question(top=10_000))
    assert len(found.firings) > 100
    assert all(firing.change is not None for firing in found.firings)
    assert found.rank_correlation > least
    averaged = attribute(subject, sae.site, sae, prompt, Question(top=3, steps=16))
    [every] = [t for t in averaged.together if t.which == "all"]
    assert every.predicted == pytest.approx(every.change, abs=0.05)


def test_ablated_sets_are_measured_together(gpt2):
    sae = transcoder()
    found, traced = trace(gpt2, sae.site_in, sae, PROMPT, Question(top=3))
    from core.attribution.attribute import Ending

    token = find_token(gpt2, PROMPT, found.token)
    ending = Ending(gpt2, traced.place, traced.ids, token, -1)
    both = measure_ablations(ending, traced.parts, [traced.order[:3]])
    [together] = [t for t in found.together if t.which == "strongest"]
    assert float(both[0]) - found.logit == pytest.approx(together.change, abs=1e-5)
