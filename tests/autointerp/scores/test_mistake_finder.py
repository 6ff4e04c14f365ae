"""Mistakes of rules on planted firings: misses and false alarms."""

import numpy as np
import pytest

from autointerp.evidence import strata
from autointerp.examples import Examples
from autointerp.scores.mistakes import MistakeFinder
from core.firings.postings import Postings
from core.text.tokens import Tokens


@pytest.fixture(scope="module")
def examples(tiny_run):
    tokens = Tokens(tiny_run.folder("capture"))
    return Examples(Postings(tiny_run.folder("index"), tiny_run.folder("capture")), tokens)


def places(examples, text, split="test"):
    """Ordinals of a token's text in a split."""
    of_text = [i for i, t in enumerate(examples.tokens.vocabulary) if t == text]
    inside = examples.tokens.in_split(split) & ~examples.copied
    return np.flatnonzero(np.isin(examples.tokens.ids, of_text) & inside)


def test_misses_and_false_alarms_are_found_where_they_were_planted(examples):
    """The feature fires on half of " cat" and on " dog"; the label says "cat"."""
    cats, dogs = (
        np.union1d(places(examples, " cat"), places(examples, "cat")),
        places(examples, " dog"),
    )
    assert len(cats) >= 6 and len(dogs) >= 3
    where = np.union1d(cats[::2], dogs)
    values = np.where(np.isin(where, dogs), 5.0, 3.0).astype(np.float32)
    found = MistakeFinder(examples, 0).snippets(1, (where, values), '"cat"', 4)

    def at(s):
        return examples.tokens.ordinal(s.document, s.start + s.peak)

    missed, alarms = (
        [at(s) for s in found if s.stratum == name] for name in ("missed", "false_alarm")
    )
    assert (
        missed
        and set(missed) <= set(dogs.tolist())
        and alarms
        and set(alarms) <= set(cats[1::2].tolist())
    )
    for s in found:
        assert (
            s.activations[s.peak] == (5.0 if s.stratum == "missed" else 0.0) and s.split == "test"
        )
    assert [at(s) for s in MistakeFinder(examples, 0).snippets(1, (where, values), '"cat"', 4)] == [
        *missed,
        *alarms,
    ]


def test_a_perfect_label_and_one_in_free_words_have_none(examples):
    cats = places(examples, " cat")
    every = np.unique(np.r_[cats, places(examples, "cat")])
    firings = (every, np.ones(len(every), np.float32))
    assert MistakeFinder(examples, 0).snippets(1, firings, '"cat"', 4) == []
    assert (
        MistakeFinder(examples, 0).snippets(
            1, (cats[::2], np.ones(len(cats[::2]), np.float32)), "mentions of cats", 4
        )
        == []
    )


def test_a_character_of_several_tokens_is_shown_whole(examples):
    """Windows whose tokens decode to nothing alone hold the text of their document."""
    tokens = examples.tokens
    broken = [i for i, t in enumerate(tokens.vocabulary) if "<0x" in t]
    ordinals = np.flatnonzero(np.isin(tokens.ids, broken))
    assert len(ordinals)
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.float32))
    for ordinal in ordinals[:40].tolist():
        [snippet] = examples.cut(0, nothing, np.array([ordinal]), ["random"], [0.0])
        first, last = ordinal - snippet.peak, ordinal - snippet.peak + len(snippet.tokens) - 1
        source = tokens.text(snippet.document)
        shown = "".join(snippet.tokens)
        assert (
            "\ufffd" not in shown
            and source[int(tokens.starts[first]) : int(tokens.ends[last])].strip() == shown.strip()
        )


def test_strata_share_out_firings_and_mass():
    values = np.random.default_rng(0).permutation(np.arange(1, 101)).astype(np.float32)
    found = {s["stratum"]: s for s in strata(values)}
    assert {name: s["low"] for name, s in found.items()} == {
        "q90": 91,
        "q70": 71,
        "q40": 41,
        "q10": 11,
        "q0": 1,
    }
    assert [s["firings"] for s in found.values()] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.1])
    assert found["q90"]["mass"] == pytest.approx(sum(range(91, 101)) / 5050) and sum(
        s["mass"] for s in found.values()
    ) == pytest.approx(1)
    assert strata(np.zeros(0, np.float32)) == []
