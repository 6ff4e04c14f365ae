"""Next tokens under a clamp, against the subject's own logits."""

import pytest
import torch

from core.clamps.clamp import Edits, Sampling, clamp_edit, generate_texts, where_to_clamp
from core.clamps.next_tokens import compare_next_tokens, compare_written
from core.records import Clamp, Site
from core.saes import SAEConfig
from tests.support.tiny import WIDTH, sae_of

pytestmark = pytest.mark.numeric

SITE, OTHER = Site("resid_post", 1), Site("mlp_out", 2)
PROMPTS = ["the cat sat", "def run(self"]


@pytest.fixture(scope="module")
def edit():
    return clamp_edit(sae_of(SAEConfig("relu", "relu"), WIDTH, 24), [Clamp(3, "set", 9.0)])


def compare(subject, edits, n=5, prompts=PROMPTS, room=8):
    return compare_next_tokens(subject, SITE, edits, prompts, n, room)


def test_log_probabilities_are_those_of_the_subject_with_and_without(subject, edit):
    for prompt, entry in zip(PROMPTS, compare(subject, Edits(edit)), strict=True):
        tokens = torch.tensor([subject.prompt_tokens(prompt)])
        plain = subject.logits(tokens)[0, -1].log_softmax(0)
        edited = subject.logits(tokens, SITE, edit)[0, -1].log_softmax(0)
        assert entry["prompt"] == prompt
        ids = [row["id"] for row in entry["tokens"]]
        assert {*plain.topk(5).indices.tolist(), *edited.topk(5).indices.tolist()} == set(ids)
        assert len(set(ids)) == len(ids)
        for row in entry["tokens"]:
            assert row["baseline"] == pytest.approx(float(plain[row["id"]]), abs=1e-5)
            assert row["clamped"] == pytest.approx(float(edited[row["id"]]), abs=1e-5)
            assert row["token"] == subject.token_texts()[row["id"]]
        clamped = [row["clamped"] for row in entry["tokens"]]
        assert clamped == sorted(clamped, reverse=True)
        assert max(abs(row["clamped"] - row["baseline"]) for row in entry["tokens"]) > 0.01


def test_a_clamp_on_generated_tokens_changes_nothing_at_the_prompts_end(gpt2, edit):
    where = where_to_clamp(gpt2, "generated")
    for entry in compare(gpt2, Edits(edit, where)):
        assert len(entry["tokens"]) == 5
        assert all(row["baseline"] == row["clamped"] for row in entry["tokens"])


def test_a_pattern_and_another_site_hold(gpt2, edit):
    tokens = torch.tensor([gpt2.prompt_tokens(PROMPTS[0])])
    where = where_to_clamp(gpt2, "all", "cat|e")
    assert where is not None
    row = compare(gpt2, Edits(edit, where))[0]["tokens"][0]
    narrow = gpt2.logits(tokens, SITE, edit, where)[0, -1].log_softmax(0)
    assert row["clamped"] == pytest.approx(float(narrow[row["id"]]), abs=1e-5)
    row = compare(gpt2, Edits(None, None, ((OTHER, edit),)))[0]["tokens"][0]
    other = gpt2.logits(tokens, OTHER, edit)[0, -1].log_softmax(0)
    assert row["clamped"] == pytest.approx(float(other[row["id"]]), abs=1e-5)


def test_a_long_prompt_is_cut_as_generation_cuts_it(gpt2, edit):
    long = "the cat " * 40
    kept = gpt2.cut_prompt(gpt2.prompt_tokens(long), gpt2.context - 8)
    assert len(kept) == gpt2.context - 8
    row = compare(gpt2, Edits(edit), prompts=[long])[0]["tokens"][0]
    plain = gpt2.logits(torch.tensor([kept]))[0, -1].log_softmax(0)
    assert row["baseline"] == pytest.approx(float(plain[row["id"]]), abs=1e-5)


def test_more_tokens_than_the_vocabulary_are_the_vocabulary(gpt2, edit):
    assert len(compare(gpt2, Edits(edit), n=10_000)[0]["tokens"]) == gpt2.n_vocabulary


# ---------------------------------------------------------------- at each written token


def test_each_written_token_has_its_table_without_and_with_the_clamp(gpt2):
    """Equal to whole passes over what was written, edited by hand."""
    sae = sae_of(SAEConfig("relu", "relu"), WIDTH, 24)
    edit = clamp_edit(sae, [Clamp(3, "set", 6.0)])
    sampling = Sampling(["the cat"], 5, 0.0, (0, 1))
    [written] = compare_written(gpt2, SITE, Edits(edit), sampling, 4)
    made = generate_texts(gpt2, SITE, sampling, Edits(edit))[0]
    new = made.tokens[made.n_prompt :]
    assert [entry["id"] for entry in written] == new and new
    tokens = torch.tensor([made.tokens])
    plain = gpt2.logits(tokens)[0].log_softmax(-1)
    clamped = gpt2.logits(tokens, SITE, edit)[0].log_softmax(-1)
    for i, entry in enumerate(written):
        at = made.n_prompt + i - 1
        assert entry["baseline"] == pytest.approx(float(plain[at, new[i]]), abs=1e-4)
        assert entry["clamped"] == pytest.approx(float(clamped[at, new[i]]), abs=1e-4)
        assert int(clamped[at].argmax()) == new[i], "greedy: the likeliest was written"
        assert entry["tokens"][0]["id"] == new[i] and len(entry["tokens"]) >= 4
    assert any(abs(e["clamped"] - e["baseline"]) > 0.01 for e in written)


def test_a_clamp_of_generated_tokens_alone_does_not_touch_the_first_written_one(gpt2):
    sae = sae_of(SAEConfig("relu", "relu"), WIDTH, 24)
    edit = clamp_edit(sae, [Clamp(3, "set", 6.0)])
    where = where_to_clamp(gpt2, "generated")
    [written] = compare_written(
        gpt2, SITE, Edits(edit, where), Sampling(["the cat"], 4, 0.0, (0,)), 3
    )
    assert written[0]["clamped"] == pytest.approx(written[0]["baseline"], abs=1e-5)
    assert any(abs(e["clamped"] - e["baseline"]) > 0.01 for e in written[1:])
