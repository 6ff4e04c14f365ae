"""Planted circuits where the right answer is known, and real tiny subjects against brute force."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import PretrainedConfig

from core.activations.tokenize import spell_prompt
from core.attribution.attribute import (
    Ending,
    Question,
    attribute,
    choose_controls,
    correlate_ranks,
    measure_ablations,
    take_apart,
)
from core.errors import UsageError
from core.records import Site
from core.saes import SAE, SAEConfig
from core.subject.next_token import find_token, last_logits
from core.subject.subject import Subject
from tests.support.tiny import WIDTH, byte_level_tokenizer, sae_of

pytestmark = pytest.mark.numeric

V, D = 320, 8
PROMPT = "the cat sat on the mat"
SITE = Site("output", module="embed")
FORMS = [
    SAEConfig("topk", "topk", 6),
    SAEConfig("signed", "topk_signed", 6),
    SAEConfig("relu", "relu"),
    SAEConfig("jumprelu", "jumprelu", norm="layer_norm"),
    SAEConfig("scaled", "relu", norm="constant_norm", centred=True),
]


class Linear(torch.nn.Module):
    """A subject that is linear behind its embedding: a causal mixture of positions, times a matrix.

    `curve` adds that times the square of the last position's first number, to logit 1.
    """

    def __init__(self, curve=0.0):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.config = PretrainedConfig(hidden_size=D, max_position_embeddings=64)
        self.embed = torch.nn.Embedding(V, D)
        self.unembed = torch.nn.Linear(D, V)
        self.mix = torch.randn(64, generator=draw)
        self.curve = curve
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=draw))

    def get_output_embeddings(self):
        return self.unembed

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, use_cache=False):
        hidden = self.embed(input_ids)
        mixed = (self.mix[: hidden.shape[1], None] * hidden).cumsum(1)
        logits = self.unembed(mixed)
        bend = torch.zeros(V).index_fill(0, torch.tensor([1]), self.curve)
        return type("Output", (), {"logits": logits + bend * hidden[..., :1] ** 2})


def linear_subject(curve=0.0):
    return Subject(Linear(curve), byte_level_tokenizer())


def planted_sae(bias=0.25):
    """D features that read and write one coordinate each: f = ReLU(x - bias), less error."""
    eye = torch.eye(D)
    tensors = {
        "W_enc": eye, "b_enc": torch.zeros(D), "W_dec": eye.clone(), "b_dec": torch.full((D,), bias),
    }  # fmt: skip
    return SAE(SAEConfig("relu", "relu"), tensors)


@pytest.fixture(scope="module")
def planted():
    """(subject, SAE, the attribution of everything with every firing ablated)."""
    subject, sae = linear_subject(), planted_sae()
    return subject, sae, attribute(subject, SITE, sae, PROMPT, Question(top=10_000))


def brute_force(subject, site, sae, found):
    """What each firing's ablation changes, in the order of `found`, by `sae.edit` to 0 there."""
    ids = subject.prompt_tokens(found.prompt)
    token = find_token(subject, found.prompt, found.token)
    tokens = torch.tensor([ids])
    plain = subject.logits(tokens)[0, -1, token]
    changes = []
    for firing in found.firings:
        zero, at = torch.zeros(1), torch.tensor(firing.position + 1)

        def edit(hidden, editable, feature=firing.feature, zero=zero, at=at):
            x = hidden.float()
            delta = sae.edit(x, torch.tensor([feature]), zero)
            return x + delta * (torch.arange(x.shape[1]) == at)[None, :, None]

        changes.append(float(subject.logits(tokens, site, edit)[0, -1, token] - plain))
    return changes


# ---------------------------------------------------------------- planted circuits


def test_a_planted_circuit_gets_its_known_attributions(planted):
    subject, _, found = planted
    ids = subject.prompt_tokens(PROMPT)
    model, token = subject.model, find_token(subject, PROMPT, found.token)
    x, out = model.embed.weight[ids], model.unembed.weight[token]
    known = {
        (k, t - 1): float((x[t, k] - 0.25) * model.mix[t] * out[k])
        for t in range(1, len(ids))
        for k in range(D)
        if x[t, k] > 0.25
    }
    assert {(f.feature, f.position): f.attribution for f in found.firings} == pytest.approx(
        known, rel=1e-4, abs=1e-5
    )
    sizes = [abs(f.attribution) for f in found.firings]
    assert sizes == sorted(sizes, reverse=True)
    assert found.bias == pytest.approx(
        float(0.25 * model.mix[1 : len(ids)].sum() * out.sum()), rel=1e-4
    )
    assert found.first == pytest.approx(float(model.mix[0] * (x[0] @ out)), rel=1e-4)
    errors = [float(model.mix[t] * ((x[t] - 0.25).clamp(max=0) @ out)) for t in range(1, len(ids))]
    assert found.errors == pytest.approx(errors, rel=1e-3, abs=1e-5)
    assert found.rest == pytest.approx(float(model.unembed.bias[token]), abs=1e-4)


def test_behind_a_linear_subject_every_prediction_is_what_ablation_measures(planted):
    subject, sae, found = planted
    predicted = [-f.attribution for f in found.firings]
    assert [f.change for f in found.firings] == pytest.approx(predicted, abs=2e-4)
    assert brute_force(subject, SITE, sae, found) == pytest.approx(predicted, abs=2e-4)
    assert found.rank_correlation > 0.999
    for group in found.together:
        assert group.change == pytest.approx(group.predicted, abs=1e-3)


def test_a_difference_is_the_difference_of_two_attributions(planted):
    subject, sae, _ = planted
    ask = lambda **asked: attribute(subject, SITE, sae, PROMPT, Question(**asked))
    a, b, both = ask(token="d"), ask(token="e"), ask(token="d", against="e")
    by_place = lambda found: {(f.feature, f.position): f.attribution for f in found.firings}
    one, other, difference = by_place(a), by_place(b), by_place(both)
    assert difference == pytest.approx({k: one[k] - other[k] for k in one}, abs=1e-4)
    assert both.logit == pytest.approx(a.logit - b.logit, abs=1e-4)
    assert both.against and not a.against


def test_what_is_not_linear_shows_and_steps_take_it_away():
    """Behind a square, the gradient misses half of what ablation does; averaged gradients do not."""
    subject, sae = linear_subject(curve=3.0), planted_sae(bias=0.0)
    ids = subject.prompt_tokens(PROMPT)
    with torch.no_grad():
        subject.model.embed.weight[ids[-1]] = 2.0 * torch.eye(D)[0]
    text = subject.token_texts()[1]
    at_prompt, averaged = (
        attribute(subject, SITE, sae, PROMPT, Question(token=text, steps=n)) for n in (1, 50)
    )
    miss = lambda found: abs(found.together[-1].change - found.together[-1].predicted)
    assert miss(at_prompt) == pytest.approx(3.0 * 2.0**2, rel=1e-3)
    assert miss(averaged) < 1e-3
    assert at_prompt.together[-1].which == "all"


# ---------------------------------------------------------------- real tiny subjects


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_parts_are_the_whole_and_ablations_are_edits_to_zero(gpt2, form):
    site, sae = Site("resid_post", 1), sae_of(form, WIDTH, 24)
    found = attribute(gpt2, site, sae, PROMPT, Question(token="e", top=10_000))
    assert abs(found.gap) < 1e-4
    whole = found.features + sum(found.errors) + found.bias + found.first + found.rest
    assert whole == pytest.approx(found.logit, abs=1e-4)
    assert found.tokens[0].strip() and len(found.errors) == len(found.tokens)
    brute = brute_force(gpt2, site, sae, found)
    assert [f.change for f in found.firings] == pytest.approx(brute, abs=1e-4)
    assert max(map(abs, brute)) > 0.01


def test_attribution_is_the_slope_of_a_small_ablation(subject):
    """On five families, at a site in the middle, against finite differences."""
    site, sae = Site("mlp_out", 1), sae_of(SAEConfig("relu", "relu"), WIDTH, 24)
    found = attribute(subject, site, sae, PROMPT, Question(token="e", top=5))
    ids = subject.prompt_tokens(PROMPT)
    ending = Ending(subject, site, ids, find_token(subject, PROMPT, found.token), -1)
    parts = take_apart(sae, subject.read(site, torch.tensor([ids]))[0].clone())
    row = {(int(t), int(k)): i for i, (t, k) in enumerate(zip(*parts.where, strict=True))}
    for firing in found.firings[:5]:
        removal = parts.removal([row[firing.position + 1, firing.feature]])[None]
        up, down = ending.measure(-1e-2 * removal), ending.measure(1e-2 * removal)
        slope = float((up - down)[0]) / 2e-2
        assert firing.attribution == pytest.approx(slope, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("kind", ["resid_pre", "resid_mid", "attn_out", "attn_z"])
def test_every_kind_of_site_has_gradients(gpt2, kind):
    found = attribute(
        gpt2, Site(kind, 2), sae_of(FORMS[2], WIDTH, 24), PROMPT, Question(top=10_000)
    )
    assert abs(found.gap) < 1e-4 and max(abs(f.attribution) for f in found.firings) > 1e-3


def test_predictions_rank_real_ablations(gpt2):
    """Brute force over every firing of three prompts, behind attention, MLPs and norms."""
    site, sae = Site("resid_post", 1), sae_of(SAEConfig("topk", "topk", 4), WIDTH, 24)
    sae.W_dec *= 0.1
    predicted, measured = [], []
    for prompt in (PROMPT, "def run(self, value)", "snow falls in winter"):
        found = attribute(gpt2, site, sae, prompt, Question(token="e", top=10_000))
        predicted += [-f.attribution for f in found.firings]
        measured += brute_force(gpt2, site, sae, found)
    assert len(predicted) > 60
    assert spearmanr(predicted, measured).statistic > 0.9
    shuffled = np.random.default_rng(0).permutation(measured)
    assert abs(spearmanr(predicted, shuffled).statistic) < 0.4


# ---------------------------------------------------------------- controls, tokens, bad input


def test_controls_are_of_like_size_and_none_of_the_strongest():
    sizes = np.array([5.0, 1.0, *np.linspace(0, 6, 200)])
    chosen = choose_controls(sizes, 2, seed=0)
    assert len(set(chosen)) == 2 and min(chosen) >= 2
    assert abs(sizes[chosen[0]] - 5) < 0.2 and abs(sizes[chosen[1]] - 1) < 0.2
    assert choose_controls(sizes, 2, seed=0) == chosen
    assert len({choose_controls(sizes, 1, seed=s)[0] for s in range(20)}) > 3
    assert choose_controls(sizes[:3], 2, seed=0) == [2]
    assert choose_controls(sizes[:2], 2, seed=0) == []


def test_correlation_of_too_little_is_none():
    assert correlate_ranks([1, 2], [1, 2]) is None
    assert correlate_ranks([1, 1, 1], [1, 2, 3]) is None
    assert correlate_ranks([1, 2, 3], [2, 4, 9]) == pytest.approx(1)


def test_a_prompt_on_which_nothing_fires_has_no_ablation():
    silent = planted_sae()
    silent.b_enc -= 1e6
    found = attribute(linear_subject(), SITE, silent, PROMPT, Question())
    assert not found.firings and not found.together and found.rank_correlation is None
    whole = sum(found.errors) + found.bias + found.first + found.rest
    assert whole == pytest.approx(found.logit, abs=1e-3)


def test_batches_do_not_change_what_is_measured(planted, monkeypatch):
    import core.attribution.attribute as module

    subject, sae, found = planted
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    again = attribute(subject, SITE, sae, PROMPT, Question(top=10_000))
    assert [f.change for f in again.firings] == pytest.approx(
        [f.change for f in found.firings], abs=1e-5
    )
    parts = take_apart(
        sae, subject.read(SITE, torch.tensor([subject.prompt_tokens(PROMPT)]))[0].clone()
    )
    ending = Ending(subject, SITE, subject.prompt_tokens(PROMPT), 1, -1)
    assert len(measure_ablations(ending, parts, [np.array([0]), np.array([], int)])) == 2


def test_a_token_is_found_by_its_text(gpt2):
    for text in (" the", "e", "<|endoftext|>"):
        assert gpt2.token_texts()[find_token(gpt2, "the cat", text)] == text
    texts = gpt2.token_texts()  # any of them, parts of a character too, where no other prints so
    for text in {t for t in texts if t and texts.count(t) == 1}:
        assert texts[find_token(gpt2, "the cat", text)] == text
    with pytest.raises(UsageError, match="is 12 tokens of the subject"):
        find_token(gpt2, "the cat", " zebra zebra")
    likeliest = int(last_logits(gpt2, torch.tensor([gpt2.prompt_tokens(PROMPT)])).argmax())
    found = attribute(gpt2, Site("resid_post", 1), sae_of(FORMS[0], WIDTH, 24), PROMPT, Question())
    assert found.token == gpt2.token_texts()[likeliest]


@pytest.mark.parametrize(
    ("prompt", "asked", "said"),
    [
        ("", {}, "shorter than two tokens"),
        ("the " * 100, {}, "the subject reads 64"),
        (PROMPT, {"token": "e", "against": "e"}, "to itself is 0"),
        (PROMPT, {"top": 0}, "cannot be made"),
        (PROMPT, {"steps": 0}, "cannot be made"),
        (PROMPT, {"at": 99}, "There is no token 99"),
        (PROMPT, {"at": -1}, "There is no token -1"),
        ("", {"at": 0}, "There is no token 0"),
    ],
)
def test_bad_questions_are_refused(gpt2, prompt, asked, said):
    sae = sae_of(FORMS[0], WIDTH, 24)
    with pytest.raises(UsageError, match=said):
        attribute(gpt2, Site("resid_post", 1), sae, prompt, Question(**asked))


@pytest.mark.parametrize("bos", [True, False])
def test_what_follows_a_token_is_asked_of_the_same_tokens(gpt2, bos, monkeypatch):
    """The text is not cut and split into tokens anew: half a character ends no token elsewhere."""
    if not bos:
        monkeypatch.setattr(gpt2, "bos", None)
    text, sae, site = "the cat sét on", sae_of(FORMS[0], WIDTH, 24), Site("resid_post", 1)
    ids, texts = gpt2.prompt_tokens(text), gpt2.token_texts()
    spelt = spell_prompt(gpt2, text)
    logits = gpt2.logits(torch.tensor([ids]))[0]
    for at in range(len(ids) - 1):
        found = attribute(gpt2, site, sae, text, Question(top=2, at=at))
        assert found.tokens == tuple(spelt[1 : at + 2])
        next_id = ids[at + 2] if at + 2 < len(ids) else int(logits[-1].argmax())
        assert found.token == texts[next_id]
        assert found.logit == pytest.approx(float(logits[at + 1, next_id]), abs=1e-4)
        assert found.likeliest[0].token == texts[int(logits[at + 1].argmax())]
        shares = [likely.probability for likely in found.likeliest]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 1
    assert found.prompt == text  # the whole of it, without BOS


def test_the_record_is_a_table(planted):
    table = dataclasses.replace(planted[2], labels={planted[2].firings[0].feature: "x"}).to_dict()
    assert table["firings"][0]["label"] == "x" and table["features"] == planted[2].features
    assert "labels" not in table
