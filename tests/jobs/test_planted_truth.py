"""Scores on features with a known truth: false labels, noise, shuffled labels, held-out text."""

import shutil

import numpy as np
import pandas as pd
import pytest

from autointerp.evidence import Evidence
from autointerp.labels.label import label, show_feature
from autointerp.rules import language as rules
from autointerp.scores.context import Context
from autointerp.scores.detection import draw_panels
from autointerp.scores.score import score
from autointerp.scores.simulation import draw_samples
from autointerp.scores.unit import STRATA
from autointerp.settings import LabelSettings, ScoreSettings
from core.records import Label
from core.run import Run
from tests.support.fake_llm import FakeLLM
from tests.support.oracle import Oracle
from tests.support.planted import NOTHING, TRUTH, planted_run

pytestmark = pytest.mark.slow

KINDS = ("simulation", "simulation-corpus", "coverage", "detection", "fuzzing")
CHANCE = {
    "simulation": 0.0,
    "simulation-corpus": 0.0,
    "coverage": 0.0,
    "detection": 0.5,
    "fuzzing": 0.5,
    "effect-choice": 1 / 3,
}
ASKED = ("simulation", "detection", "fuzzing", "effect-choice")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """The planted run with rule labels. Shared: read it only."""
    run = planted_run(tmp_path_factory.mktemp("planted") / "run")
    label(run, LabelSettings())
    return run


@pytest.fixture
def copy(labelled, tmp_path):
    shutil.copytree(labelled.path, tmp_path / "run")
    return Run.open(str(tmp_path / "run"))


def labels_of(run, name="rules"):
    return pd.read_parquet(run.folder(f"label/{name}") / "labels.parquet").set_index("feature")


def scores_of(run, name, kind):
    table = pd.read_parquet(run.folder(f"score/{name}/{kind}") / "scores.parquet")
    return table[table["kind"] == kind].set_index("feature")


def write_labels(run, name, texts):
    """A label set with these texts."""
    work = run.begin(f"label/{name}", 1, {"texts": list(texts)}, ["index"])
    frame = pd.DataFrame([vars(Label(f, name, text, 1.0, "rule")) for f, text in enumerate(texts)])
    frame.to_parquet(work.folder / "labels.parquet")
    pd.DataFrame({"feature": []}).to_parquet(work.folder / "failures.parquet")
    work.commit({})


@pytest.mark.numeric
def test_labels_name_what_was_planted(labelled):
    """Each literal and shape of the truth stands in the label."""
    table = labels_of(labelled)
    for feature, truth in TRUTH.items():
        if feature == NOTHING:
            assert table.loc[feature, "kind"] == "unclear"
            continue
        text = table.loc[feature, "text"]
        assert named_in(truth) <= named_in(text), (truth, text)


def named_in(text):
    """The literals and shapes of a rule."""
    return {
        t
        for p in rules.parse(text).predicates
        for _, terms in rules.slots(p)
        for t in (*terms.literals, *terms.shapes)
    }


@pytest.mark.numeric
def test_the_true_label_scores_above_four_false_ones(copy):
    """Set k gives each feature the truth of the feature k places further on; set 0 is the truth."""
    real = [f for f in TRUTH if f != NOTHING]
    found = {kind: [] for kind in KINDS}
    strata = {
        (kind, name): [] for kind in ("simulation", "detection", "fuzzing") for name in STRATA
    }
    for shift in range(5):
        moved = dict(zip(real, real[shift:] + real[:shift], strict=True))
        write_labels(copy, f"import-{shift}", [TRUTH[moved.get(f, 0)] for f in TRUTH])
        score(copy, ScoreSettings(labels=f"import-{shift}", kind=",".join(KINDS)))
        for kind in KINDS:
            found[kind].append(scores_of(copy, f"import-{shift}", kind)["value"])
        for kind, name in strata:
            table = scores_of(copy, f"import-{shift}", kind).loc[real]
            strata[kind, name].append(table[name].fillna(CHANCE[kind]))
            if shift == 0:  # in another set a null label may be the feature's own truth
                assert table[f"null_{name}"].mean() < CHANCE[kind] + 0.06, (kind, name)
    for (kind, name), values in strata.items():
        true, *false = values
        assert all((true > f).mean() > 0.9 for f in false), (kind, name)
        assert true.median() > CHANCE[kind] + 0.35 and np.mean(false) < CHANCE[kind] + 0.05
    for kind, values in found.items():
        true, *false = (v.loc[real].fillna(CHANCE[kind]) for v in values)
        assert all((true > f).all() for f in false), kind
        assert (
            true.min() > CHANCE[kind] + 0.15
            and true.median() > CHANCE[kind] + 0.4
            and np.mean(false) < CHANCE[kind] + 0.05
        )


@pytest.mark.numeric
def test_nothing_scores_as_its_null(copy):
    score(copy, ScoreSettings(kind=",".join(KINDS)))
    for kind in KINDS:
        table = scores_of(copy, "rules", kind)
        assert np.nan_to_num(table.loc[NOTHING, "value"], nan=CHANCE[kind]) < CHANCE[kind] + 0.12, (
            kind
        )
        others = table.drop(index=NOTHING)
        assert (others["value"] > others["null"].clip(lower=CHANCE[kind])).all(), kind


def test_shuffled_labels_are_at_their_null(copy):
    """With the label of another feature the mean score is what "always no" reaches."""
    rng = np.random.default_rng(0)
    found = {kind: [] for kind in KINDS}
    real = [f for f in TRUTH if f != NOTHING]
    for draw in range(4):
        order = rng.permutation(real)
        order = np.where(order == real, np.roll(order, 1), order)
        moved = dict(zip(real, order.tolist(), strict=True)) | {NOTHING: 0}
        write_labels(copy, f"import-s{draw}", [TRUTH[moved[f]] for f in TRUTH])
        score(copy, ScoreSettings(labels=f"import-s{draw}", kind=",".join(KINDS)))
        for kind in KINDS:
            table = scores_of(copy, f"import-s{draw}", kind)
            apart = [f for f in real if moved[f] != f]
            found[kind] += table.loc[apart, "value"].dropna().tolist()
    for kind, values in found.items():
        assert abs(np.mean(values) - CHANCE[kind]) < 0.04, (kind, np.mean(values))


class Writer:
    """A subject whose clamps write the words of the planted truth."""

    def clamped_texts(self, features, times):
        assert times == 2.0
        return {
            f: [
                " ".join([f"{i}", *(TRUTH[f].strip('"').split('"')), "and so on"]) for i in range(3)
            ]
            for f in features
        }


@pytest.fixture(scope="module")
def by_noise(labelled, tmp_path_factory):
    """{share of noise in the LLM's answers: {kind: (mean score, mean null, features)}}."""
    single = [
        f
        for f, text in TRUTH.items()
        if text.count('"') == 2
        and rules.parse(text).predicates[0] == rules.Predicate(rules.Terms((text.strip('"'),)))
    ]
    found = {}
    for noise in (0.0, 0.5, 1.0):
        path = tmp_path_factory.mktemp("noise") / "run"
        shutil.copytree(labelled.path, path)
        run = Run.open(str(path))
        with FakeLLM(judge=Oracle(noise), models=("m",)) as server:
            chosen = ",".join(map(str, single))
            label(run, LabelSettings(labels="llm", llm_url=server.url, features=chosen))
            score(
                run,
                ScoreSettings(
                    labels="llm-m", llm_url=server.url, features=chosen, kind=",".join(ASKED)
                ),
                live=Writer(),
            )
            asked = len(server.seen)
            covered = ScoreSettings(
                labels="llm-m", llm_url=server.url, features=chosen, kind="coverage"
            )
            score(run, covered)
            assert len(server.seen) == asked, "simulation has asked already"
        tables = {kind: scores_of(run, "llm-m", kind) for kind in ASKED}
        found[noise] = {
            kind: (table["value"].mean(), table["null"].mean(), len(table))
            for kind, table in tables.items()
        }
        found[noise]["coverage"] = scores_of(run, "llm-m", "coverage")
        assert set(labels_of(run, "llm-m")["text"]) == {
            f"tokens that read {TRUTH[f]}" for f in single
        }
    return found


@pytest.mark.parametrize("kind", ASKED)
def test_scores_by_an_llm_fall_with_its_noise_to_the_null(by_noise, kind):
    values = [by_noise[noise][kind][0] for noise in sorted(by_noise)]
    assert by_noise[0.0][kind][2] > 10
    assert all(a > b for a, b in zip(values[:-1], values[1:], strict=True)), values
    near = (
        0.2 if kind == "effect-choice" else 0.06
    )  # three picks a feature: a standard error of .07
    assert values[0] > CHANCE[kind] + 0.4 and abs(values[-1] - CHANCE[kind]) < near
    assert abs(by_noise[1.0][kind][1] - CHANCE[kind]) < near


def test_estimated_coverage_falls_with_noise(by_noise):
    tables = [by_noise[noise]["coverage"] for noise in sorted(by_noise)]
    assert all(table["estimated"].all() for table in tables)
    r = [table["r_all"].mean() for table in tables]
    assert r[0] > r[1] > r[2] and abs(r[2] - tables[2]["null_r_all"].mean()) < 0.06
    assert tables[0]["value"].mean() > 0.85 and tables[0]["precision"].mean() > 0.85
    assert tables[0]["null"].mean() < 0.1 and tables[1]["precision"].mean() < 0.5


def test_an_llm_that_labels_in_the_language_of_rules_needs_no_llm_to_be_scored(copy):
    with FakeLLM(judge=Oracle(rules=True), models=("m",)) as server:
        label(copy, LabelSettings(labels="llm", llm_url=server.url, features="0,7-19"))
        asked = len(server.seen)
        score(copy, ScoreSettings(labels="llm-m", kind="simulation,simulation-corpus,detection"))
        assert len(server.seen) == asked
    assert scores_of(copy, "llm-m", "simulation-corpus")["value"].min() > 0.5


# ---------------------------------------------------------------- held-out text


def overlaps(run, features):
    """How many (documents, windows) of `features` both labellers and scorers see."""
    table = labels_of(run)
    known = Evidence(run)
    context = Context(
        run, ScoreSettings(), table["text"], table["kind"], known.postings, known.tokens
    )
    samples = {s.feature: s for s in draw_samples(context, features)}
    panels = {p.feature: p for p in draw_panels(context, features)}
    seen_by_rules = set(
        np.flatnonzero(known.tokens.split != 2).tolist()
    )  # train, and val for how many predicates
    ids = np.asarray(known.tokens.ids)
    shared_documents = shared_windows = 0
    for feature in features:
        seen = show_feature(known, feature, known.postings.firings(feature))
        snippets = [*seen.windows, *seen.contrasts]
        panel, sample = panels[feature], samples[feature]
        scored = {*sample.documents.tolist(), *panel.documents.tolist()}
        shared_documents += len(scored & ({s.document for s in snippets} | seen_by_rules))
        shown = {s.tokens for s in snippets}
        windows = [
            tuple(known.tokens.vocabulary[i] for i in ids[a:b])
            for a, b in zip(panel.starts, panel.ends, strict=True)
        ]
        shared_windows += sum(w in shown for w in windows if len(w) == 32)
    return shared_documents, shared_windows


def test_no_document_and_no_window_is_shared_with_the_labeller(labelled, job):
    assert overlaps(labelled, list(TRUTH)) == (0, 0)
    run = Run.open(str(job))
    assert overlaps(run, labels_of(run).index.tolist()) == (0, 0)
