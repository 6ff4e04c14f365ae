"""Absorption is found where it is planted and nowhere else; the corpus of some documents is that of
all, cut.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from autointerp.clusters import relate as stage
from autointerp.clusters.geometry import unit_rows
from autointerp.clusters.relate import annotate_sample, find_absorption, find_children, tabulate
from autointerp.clusters.unit import RELATION_COLUMNS, read_relations
from autointerp.pipeline import make as make_unit
from autointerp.rules.annotations import Annotations
from autointerp.settings import ClusterSettings, RelateSettings
from core.text.tokens import Tokens, sample_tokens

N, F = 1000, 6


def planted():
    """Feature 0 should fire on tokens 0..199 and is silent on 0..79, where its child 1 fires. 2
    fires there too but is an opposite direction; 3 lies near but fires everywhere; 4 is near and
    silent there; 5 is its label's only reader.
    """
    fires = np.zeros((N, F), bool)
    fires[80:200, 0] = fires[:80, 1] = fires[:80, 2] = fires[::2, 3] = fires[300:400, 4] = True
    parent = unit_rows(np.random.default_rng(0).normal(size=(1, 40)))[0]
    other = unit_rows(np.random.default_rng(1).normal(size=(F, 40)))
    directions = unit_rows(
        np.stack(
            [
                parent,
                parent + other[1],
                -parent + other[2],
                parent + other[3],
                parent + other[4],
                other[5],
            ]
        )
    )
    predicted = np.zeros((1, N))
    predicted[0, :200] = 1
    return csr_matrix(predicted), csr_matrix(fires.astype(float)), directions


def test_only_the_planted_child_absorbs():
    predicted, fires, directions = planted()
    assert find_children(predicted, fires, np.array([0]), directions) == [
        ("absorption", 0, 1, 1.0, 80)
    ]


def test_few_misses_or_a_small_share_are_no_absorption():
    predicted, fires, directions = planted()
    dense = fires.toarray()
    dense[15:80, 0] = 1  # 15 misses are left
    assert find_children(predicted, csr_matrix(dense), np.array([0]), directions) == []
    dense = fires.toarray()
    dense[15:80, 1] = 0  # the child covers 15 of 80
    assert find_children(predicted, csr_matrix(dense), np.array([0]), directions) == []


def test_the_corpus_of_some_documents_equals_that_part_of_the_whole(tiny_run):
    tokens = Tokens(tiny_run.folder("capture"))
    whole = Annotations.from_tokens(tokens)
    ordinals = sample_tokens(tokens, "test", 400, 0)
    part = annotate_sample(tokens, ordinals)
    assert len(part) == len(ordinals) <= 400
    assert [part.lexemes[c] for c in part.codes] == [
        whole.lexemes[c] for c in whole.codes[ordinals]
    ]
    assert np.array_equal(part.place, whole.place[ordinals]) and np.array_equal(
        part.contexts, whole.contexts[ordinals]
    )
    lines, expected = part.line, whole.line[ordinals]
    assert np.array_equal(lines >= 0, expected >= 0) and np.array_equal(
        ordinals[lines[lines >= 0]], expected[expected >= 0]
    )


def test_pairs_are_counted_exactly(tiny_run):
    from core.firings.postings import Postings

    postings = Postings(tiny_run.folder("index"), tiny_run.folder("capture"))
    a, b = np.argsort(-postings.n_firings)[:2].tolist()
    directions = unit_rows(np.load(tiny_run.folder("train") / "directions.npy"))
    table = tabulate(
        [("splitting", a, b, 0.7, 0), ("absorption", b, a, 0.4, 30), ("splitting", b, a, 0.9, 0)],
        postings,
        directions,
        np.full(postings.n_features, -1),
    )
    assert (
        list(table.columns) == RELATION_COLUMNS
        and table["kind"].tolist() == ["absorption", "splitting", "splitting"]
        and table["strength"].tolist() == [0.4, 0.9, 0.7]
    )
    assert (
        table["shared"][0] == len(set(postings.firings(a)[0]) & set(postings.firings(b)[0]))
        and table["n_feature"][0] == postings.n_firings[b]
    )
    assert table["cosine"][0] == pytest.approx(float(directions[a] @ directions[b]), abs=1e-4)


def test_pairs_within_a_family_come_first(tiny_run):
    from core.firings.postings import Postings

    postings = Postings(tiny_run.folder("index"), tiny_run.folder("capture"))
    f = np.argsort(-postings.n_firings)[:7].tolist()
    family = np.full(postings.n_features, -1)
    family[f[:3]], family[f[3:5]] = 0, 1
    strengths = {(0, 3): 0.9, (5, 6): 0.8, (3, 4): 0.6, (0, 2): 0.7}
    pairs = [("splitting", f[a], f[b], s, 0) for (a, b), s in strengths.items()]
    table = tabulate(pairs, postings, np.eye(postings.n_features), family)
    assert table["family"].tolist() == [0, 1, -1, -1]
    assert table["strength"].tolist() == [0.7, 0.6, 0.9, 0.8]


def test_labels_in_free_words_say_nothing_by_themselves(tiny_run):
    from core.firings.postings import Postings

    tokens, postings = (
        Tokens(tiny_run.folder("capture")),
        Postings(tiny_run.folder("index"), tiny_run.folder("capture")),
    )
    labels = pd.DataFrame({"feature": [0, 1], "text": ["the days of the week", "unclear"]})
    assert find_absorption(
        postings, tokens, labels, np.eye(postings.n_features), sample_tokens(tokens, "test", 100, 0)
    ) == ([], 0)


@pytest.mark.slow
def test_the_stage_writes_its_table(run_copy, monkeypatch):
    from autointerp.labels.label import label
    from autointerp.settings import LabelSettings

    make_unit(run_copy, "cluster", ClusterSettings(nulls=0, seeds=0, subsamples=0))
    label(run_copy, LabelSettings())
    assert list(read_relations(run_copy).columns) == RELATION_COLUMNS  # before the stage
    monkeypatch.setattr(stage, "SAMPLED", 2000)
    manifest = make_unit(run_copy, "relate", RelateSettings())
    table = read_relations(run_copy)
    assert list(table.columns) == RELATION_COLUMNS and manifest.summary["labels_read"] > 0
    assert len(table) == sum(
        manifest.summary[kind] for kind in ("duplicate", "splitting", "absorption")
    )
