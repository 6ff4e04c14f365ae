"""Token rates and contrasts of planted features, against brute force over the train split."""

import numpy as np
import pytest

from autointerp.evidence import Evidence
from autointerp.labels.windows import CONTRASTS, LEFT, draw_contrasts, rate_tokens
from tests.support.planted import planted_run


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return Evidence(planted_run(tmp_path_factory.mktemp("planted") / "run"))


def in_train(known):
    tokens = known.tokens
    documents = tokens.document_of(np.arange(len(tokens.ids)))
    return (np.asarray(tokens.split)[documents] == 0) & ~known.examples.copied


@pytest.mark.parametrize("feature", [0, 1, 2])
def test_rates_are_those_of_a_walk_over_the_train_split(known, feature):
    firings = known.postings.firings(feature)
    dense = np.zeros(known.postings.n_tokens)
    dense[firings[0]] = firings[1]
    ids, inside = np.asarray(known.tokens.ids), in_train(known)
    rates = rate_tokens(known.examples, firings)
    assert 1 <= len(rates) <= 6
    assert [r.share for r in rates] == sorted((r.share for r in rates), reverse=True)
    for rate in rates:
        here = inside & (ids == known.tokens.vocabulary.index(rate.token))
        assert rate.places == here.sum() and rate.fires == (dense[here] > 0).sum()
        assert rate.share == pytest.approx(dense[here].sum() / dense[inside].sum(), rel=1e-5)


@pytest.mark.parametrize("feature", [0, 1, 2])
def test_contrasts_are_silent_places_of_the_features_own_tokens(known, feature):
    firings = known.postings.firings(feature)
    drawn = draw_contrasts(known.examples, feature, firings, np.random.default_rng(0))
    own = [rate.token for rate in rate_tokens(known.examples, firings, len(CONTRASTS))]
    assert len(drawn) <= sum(CONTRASTS)
    for snippet in drawn:
        assert snippet.activations[snippet.peak] == 0 and snippet.split == "train"
        assert snippet.tokens[snippet.peak] in own and snippet.peak >= LEFT
        assert snippet.stratum == "near_miss"


def test_a_feature_without_firings_has_neither(known):
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert rate_tokens(known.examples, nothing) == []
    assert draw_contrasts(known.examples, 0, nothing, np.random.default_rng(0)) == []
