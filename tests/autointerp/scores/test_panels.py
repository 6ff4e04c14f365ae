"""Panels, rivals and scores on a real run, against brute force over its dense activations."""

import numpy as np
import pandas as pd
import pytest

from autointerp.examples import Examples
from autointerp.rules import language as rules
from autointerp.scores.context import Context
from autointerp.scores.detection import measure_separation, rate_by_rule
from autointerp.scores.panels import FIRES, HARD, draw_panel
from autointerp.scores.rivals import NEAREST, Rivals, nearest_by_firing, nearest_directions
from autointerp.scores.simulation_corpus import HeldOut, score_corpus
from autointerp.settings import ScoreSettings
from autointerp.statistics import correlation, document_sums
from core.files import read_array
from core.firings.postings import Postings
from core.run import Run
from core.text.tokens import Tokens

RULES = [
    '"cat"',
    'anything after "the"',
    '"sat", "dog" or "on"; a word in a string',
    "anything not after a space",
    '" value"',
    "digits; punctuation (weak)",
]


@pytest.fixture(scope="module")
def context(job):
    run = Run.open(str(job))
    table = (
        pd.read_parquet(run.folder("label/rules") / "labels.parquet")
        .set_index("feature")
        .sort_index()
    )
    texts = pd.Series([RULES[f % len(RULES)] for f in table.index], index=table.index)
    return Context(
        run,
        ScoreSettings(),
        texts,
        table["kind"],
        Postings(run.folder("index"), run.folder("capture")),
        Tokens(run.folder("capture")),
    )


@pytest.fixture(scope="module")
def rivals(context):
    directions = read_array(context.run.folder("train") / "directions.npy", mapped=False)
    return Rivals.build(context.postings, context.examples, directions, 0)


def panels(context, rivals, windows=8):
    found = [draw_panel(context.examples, rivals, windows, 0, int(f)) for f in context.labels.index]
    return [p for p in found if not p.undefined]


def dense(context, feature):
    out = np.zeros(context.postings.n_tokens, np.float32)
    where, values = context.postings.firings(feature)
    out[where] = values
    return out


def test_windows_are_what_their_sort_says(context, rivals):
    found = panels(context, rivals)
    assert len(found) > 20 and sum(p.count(HARD) > 0 for p in found) > 5
    split = context.tokens.in_split("test")
    for panel in found:
        activation = dense(context, panel.feature)
        for start, end, sort, document, marks in zip(
            panel.starts, panel.ends, panel.sorts, panel.documents, panel.marks, strict=True
        ):
            assert split[start:end].all() and set(
                context.tokens.document_of(np.arange(start, end))
            ) == {document}
            fires = np.flatnonzero(activation[start:end]) + start
            assert len(fires) > 0 if sort == FIRES else len(fires) == 0
            assert len(marks) and ((marks >= start) & (marks < end)).all()
            if sort == FIRES:
                assert marks.tolist() == fires.tolist()
        order = np.argsort(panel.starts)
        assert (panel.starts[order][1:] >= panel.ends[order][:-1]).all(), (
            "no two windows of a feature overlap"
        )


def test_a_hard_window_is_one_where_a_rival_fires(context, rivals):
    for panel in panels(context, rivals)[:40]:
        own = [dense(context, int(r)) for r in rivals.nearest[panel.feature] if r >= 0]
        for i in np.flatnonzero(panel.sorts == HARD):
            assert any((a[panel.marks[i]] > 0).all() for a in own)


def test_a_panel_depends_on_the_seed_and_the_feature_alone(context, rivals):
    feature = panels(context, rivals)[0].feature
    again = draw_panel(Examples(context.postings, context.tokens), rivals, 8, 0, feature)
    first = draw_panel(context.examples, rivals, 8, 0, feature)
    assert again.starts.tolist() == first.starts.tolist()


def test_rivals_by_brute_force():
    rng = np.random.default_rng(0)
    directions, firing = rng.normal(size=(30, 5)), (rng.random((30, 400)) < 0.2).astype(np.float32)
    live = np.ones(30, bool)
    live[7] = False
    from scipy.sparse import csr_matrix

    for found, rows in (
        (nearest_directions(directions, live), directions),
        (nearest_by_firing(csr_matrix(firing), live), firing),
    ):
        cosine = (
            rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1))
        )
        cosine[:, 7] = -2
        np.fill_diagonal(cosine, -2)
        assert [set(row) for row in found] == [set(np.argsort(-row)[:NEAREST]) for row in cosine]


def test_looking_matches_up_is_matching_every_token(context):
    held_out = HeldOut.build(context)
    pool = context.examples.pool("test")
    for text in RULES:
        rule = rules.parse(text)
        at, levels = held_out.predict(rule)
        whole = rules.predict(rule, context.annotations, pool)
        assert (
            at.tolist() == pool[whole > 0].tolist() and levels.tolist() == whole[whole > 0].tolist()
        ), text


def test_the_score_over_the_corpus_is_the_correlation_over_every_held_out_token(context):
    features = context.labels.index[:40].tolist()
    pool = context.examples.pool("test")
    documents = context.tokens.document_of(pool)
    scores = [s for s in score_corpus(context, features).scores if s.value is not None]
    assert len(scores) > 10
    for s in scores:
        activation = dense(context, s.feature)[pool]
        for text, value in (
            (context.labels[s.feature], s.value),
            (context.others[s.feature], s.null),
        ):
            predicted = rules.predict(rules.parse(text), context.annotations, pool)
            expected = correlation(document_sums(predicted, activation, documents).sum(0))
            assert value == pytest.approx(float(np.nan_to_num(expected)), abs=1e-6)


def test_a_rule_says_yes_by_its_largest_prediction(context, rivals):
    panel = panels(context, rivals)[0]
    rule = rules.parse('"cat"; "dog" (weak)')
    for marked in (False, True):
        for i, rating in enumerate(rate_by_rule(rule, context.annotations, panel, marked)):
            tokens = panel.marks[i] if marked else np.arange(panel.starts[i], panel.ends[i])
            words = [context.tokens.vocabulary[t].strip() for t in context.tokens.ids[tokens]]
            assert rating == pytest.approx(
                1.0 if "cat" in words else 0.7 if "dog" in words else 0.0
            )


def test_telling_apart_by_hand():
    fires, documents = np.array([True] * 4 + [False] * 5), np.arange(9)
    told = measure_separation(np.array([1, 1, 0.7, 0, 0, 0, 0, 0, 1.0]), fires, documents)
    assert (
        told.balanced == pytest.approx((3 / 4 + 4 / 5) / 2)
        and told.low < told.balanced < told.high
        and told.n_documents == 4
    )
    missing = np.array([1, np.nan, np.nan, np.nan, 0, 0, 0, 0, 1.0])
    assert measure_separation(missing, fires, documents) is None, (
        "under half of the firing windows were rated"
    )
    missing[1] = 1
    assert measure_separation(missing, fires, documents).balanced == pytest.approx((1 + 4 / 5) / 2)
    assert measure_separation(np.zeros(9), fires, documents).balanced == 0.5, "always no"
