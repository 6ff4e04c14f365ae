"""Architectures that `families` does not list: their sites are found by running the model once."""

import pytest
import torch

from core.records import Site
from core.subject.decoding import cache_holds
from core.subject.families import FAMILIES
from core.subject.subject import Subject
from tests.support.every_family import read_table, try_family
from tests.support.tiny import byte_level_tokenizer, tiny_model
from tests.support.tiny_families import family_names

VARIED = (
    "apertus", "bert", "cohere", "deepseek_v3", "falcon_h1", "gemma4_text", "gpt_oss", "jamba",
    "lfm2", "minimax", "olmo2", "phimoe",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
def test_the_table_says_what_a_model_of_an_architecture_does(name):
    (row,) = [row for row in read_table() if row["architecture"] == name]
    assert try_family(name) == row


def test_the_table_lists_every_causal_language_model_of_the_library():
    """A new version of transformers asks for a new table."""
    rows = read_table()
    assert [row["architecture"] for row in rows] == family_names()
    assert {row["architecture"] for row in rows} >= set(FAMILIES)
    for row in rows:
        whole = row["reads"] == "yes" and row["sites"] == "all" and row["generates"] != "no"
        assert whole or row["why not"], row
        if row["architecture"] in FAMILIES:
            assert row["reads"] == "yes" and row["generates"] == "with a cache", row


class NoCache(torch.nn.Module):
    """A model as Mamba and RWKV: without a key-value cache."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, input_ids, use_cache=False):
        return self.inner(input_ids=input_ids, use_cache=False)


class LostCache(NoCache):
    """A model that takes a cache and forgets what it holds."""

    def forward(self, input_ids, past_key_values=None, use_cache=False, **_):
        return self.inner(input_ids=input_ids, use_cache=use_cache)


@pytest.mark.parametrize("bad", [NoCache, LostCache])
def test_a_model_whose_cache_cannot_be_used_reads_the_text_anew(bad):
    """The same text and the same activations, for rows of different lengths, edited or not."""
    model, tokenizer = tiny_model("llama"), byte_level_tokenizer()
    known = Subject(model, tokenizer)
    site, prompts = Site.parse("resid_post.1"), ["the cat", "the dog ran on the mat"]

    def edit(hidden, editable):
        return hidden + 3.0 * editable[..., None]

    def where(tokens, generated):
        return (tokens % 2 == 0) | generated

    for how in ({}, {"edit": edit}, {"edit": edit, "where": where}):
        expected = known.generate(prompts, 6, site, temperature=0, **how)
        other = Subject(model, tokenizer)
        other.__dict__["_keeps_cache"] = cache_holds(bad(model), torch.device("cpu"))
        assert not other._keeps_cache
        made = other.generate(prompts, 6, site, temperature=0, **how)
        for ours, theirs in zip(made, expected, strict=True):
            assert (ours.tokens, ours.text) == (theirs.tokens, theirs.text)
            torch.testing.assert_close(ours.activations, theirs.activations, rtol=1e-4, atol=1e-4)
    assert cache_holds(model, torch.device("cpu"))
