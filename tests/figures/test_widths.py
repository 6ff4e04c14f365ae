"""Every text of the command line fits terminals of 80 to 200 columns, without broken words."""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from autointerp.features import Features
from core.clamps.experiments import Experiment
from core.errors import NothingFound, UsageError
from core.run import Run
from figures.clamp_lines import clamp_text
from figures.terminal import feature_text, pair_text, reading_text, units_text
from figures.text import describe_change, describe_useful

WORDS = [f"word{i}" for i in range(60)]
MEASURES = ("target", "own", "found", "kl", "loss", "perplexity", "distinct")


def row_of(dose, own=0.4, other=0.1):
    row = {"dose": dose}
    for prefix, value in (("", own), ("random_", other), ("feature_", other)):
        for key in MEASURES:
            row |= {prefix + key: value, f"{prefix}{key}_low": value - 0.2}
            row |= {f"{prefix}{key}_high": value + 0.2}
    return row


USEFUL = row_of(2.0, own=0.6) | {
    "sought_on": 8,
    "reported_on": 8,
    "unclamped_own": 0.05,
    "unclamped_found": 0.0,
}
RECORD = Experiment(
    clamps=("set 7=2x",),
    features=(7,),
    prompts=(" ".join(WORDS[:30]),),
    baseline=(" ".join(WORDS),),
    clamped=("\n".join(WORDS),),
    seeds=(0,),
    labels={7: " ".join(WORDS)},
    doses=tuple(row_of(d) for d in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)),
    useful=USEFUL,
)


@pytest.fixture(params=[80, 110, 160, 200])
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.fixture(scope="module")
def known(job):
    return Features(Run.open(str(job)))


def assert_fits(text, width):
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_a_feature_fits_and_each_snippet_stands_on_one_line(known, width):
    card = known.card(12, {"top": 6, "strata": 1, "near_miss": 2, "failing": 2})
    text = feature_text(replace(card, snippets=card.snippets))
    assert_fits(text, width)
    lines = [
        line for line in text.splitlines() if line.rstrip().endswith(("train]", "test]", "val]"))
    ]
    assert len(lines) == len(card.snippets) > 5


def test_texts_of_a_clamp_are_wrapped_between_words(width):
    text = clamp_text(RECORD)
    assert_fits(text, width)
    found = text.replace("↵", " ").replace("(", " ").replace("…", " ").split()
    assert [w for w in found if w.startswith("word") and w not in WORDS] == []
    assert text.splitlines()[0].startswith("set 7=2x")
    assert "At 2x: its own tokens +0.4 nats (random direction +0.1)" in " ".join(text.split())


def test_a_pair_a_reading_and_the_units_fit(known, width):
    pair = known.pair(3, 5)
    assert_fits(pair_text(pair | {"labels": {"a": RECORD.label(7), "b": ""}}), width)
    firings = [{"position": i % 60, "feature": i, "activation": 1.0 + i, "label": RECORD.label(7)} for i in range(30)]  # fmt: skip
    text = reading_text([f" {w}" for w in WORDS], firings, dict.fromkeys(range(30), 40.0), 20)
    assert_fits(text, width)
    summary = {"median": 0.5, "n": 12, "failures": {"names_no_token": 6, "constant": 1}}
    unit = {"stage": "score/rules/effect", "state": "done", "summary": summary, "seconds": 3.0}
    text = units_text([unit])
    assert_fits(text, width)
    assert "names_no_token" not in text and "median 0.5" in text


# ---------------------------------------------------------------- sentences about doses


def test_a_dose_that_other_prompts_confirm_is_useful():
    text = describe_useful(USEFUL, "own", "of the tokens written are its own")
    assert text.startswith("useful dose 2x") and "[40.0%, 80.0%]" in text


@pytest.mark.parametrize(
    "change",
    [
        {"own_low": 0.05},  # not above the random direction
        {"own_low": None},  # too few prompts for an interval
        {"unclamped_own": 0.5},
        {"feature_own": 0.5},
        {"own": 0.0, "own_low": 0.0, "own_high": 0.0},
    ],
)
def test_a_dose_that_other_prompts_do_not_confirm_is_none(change):
    text = describe_useful(USEFUL | change, "own", "of the tokens written are its own")
    assert text.startswith("no useful dose: 2x") and "not confirmed" in text


def test_no_dose_and_intervals_beyond_a_share_are_said():
    nothing = {"dose": None, "sought_on": 3, "reported_on": 3}
    assert describe_useful(nothing, "own", "x").startswith("no useful dose")
    wide = USEFUL | {"own_low": -0.3, "own_high": 1.4}
    assert "[0.0%, 100.0%]" in describe_useful(wide, "own", "x")


def test_the_change_is_told_at_a_confirmed_dose_else_near_one():
    assert describe_change(RECORD).startswith("At 2x")
    unconfirmed = replace(RECORD, useful=USEFUL | {"own_low": 0.0})
    assert describe_change(unconfirmed).startswith("At 1x")
    assert describe_change(replace(RECORD, doses=None)) == ""


def test_the_demo_suggests_a_clamp_that_was_confirmed_or_the_search_for_one():
    from figures.cli.demo import SMOLLM2, suggest_clamp

    assert suggest_clamp(SMOLLM2, [RECORD]).startswith("clamp demo --set 7=2x --prompt ")
    unconfirmed = replace(RECORD, useful=USEFUL | {"own_low": 0.0})
    assert suggest_clamp(SMOLLM2, [unconfirmed]) == suggest_clamp(SMOLLM2, []) == "gallery demo 1"
    assert suggest_clamp(SMOLLM2, [unconfirmed, RECORD]) == suggest_clamp(SMOLLM2, [RECORD])


# ---------------------------------------------------------------- nothing found


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["find", "zzzzzzz"], NothingFound, "Nothing holds 'zzzzzzz'"),
        (["list", "--labels", "handd"], UsageError, "There are: rules"),
        (["list", "--cluster", "9999"], UsageError, "There is no cluster 9999"),
        (["list", "--min-score", "2"], NothingFound, "No feature is all of this"),
    ],
)
def test_nothing_found_is_an_error_in_words(job, words, error, said):
    from figures.cli.app import cli

    verb, *rest = words
    for more in ([], ["--json"]):
        result = CliRunner().invoke(cli, [verb, str(job), *rest, *more])
        assert isinstance(result.exception, error) and said in result.exception.message
        assert result.exception.code == (1 if error is NothingFound else 2)
        assert result.stdout.strip() == ("[]" if more and error is NothingFound else "")
