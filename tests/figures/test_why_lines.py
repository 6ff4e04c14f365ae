"""What `why` prints fits the terminal, and holds each part, each ablation and each label."""

import pytest
from rich.cells import cell_len

from core.attribution.record import Attribution, Edge, Firing, Together
from figures.why_lines import why_text

FIRINGS = (
    Firing(12, 1, 3.0, 2.5, -2.25),
    Firing(7, 0, 1.0, -0.5, 0.75),
    Firing(3, 1, 0.5, 0.125, -0.0625),
)


def made(**changes):
    parts = {
        "prompt": "the San\n", "tokens": (" San", "\n"), "token": " Francisco", "against": "", "logit": 4.0, "probability": 0.5,
        "site": "resid_post.1", "firings": FIRINGS, "errors": (0.5, 0.25), "bias": 1.0, "first": -1.0, "rest": 1.125, "gap": 0.0,
        "strongest": 2, "random": (2,), "together": (Together("strongest", 2, -2.0, -1.5), Together("all", 3, -2.125, -1.75)),
        "rank_correlation": 0.5, "steps": 1, "labels": {12: "cities " * 40},
    }  # fmt: skip
    return Attribution(**parts | changes)


@pytest.mark.parametrize("width", [80, 200])
def test_every_part_and_ablation_is_printed_and_fits(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = why_text(made())
    assert all(cell_len(line) <= width for line in text.splitlines())
    for said in ("‹ Francisco›", "50.0%", "+2.125", "+0.750", "-2.250", "-2.500", "-0.062", "‹↵›"):
        assert said in text, said
    assert "every firing" in text and "0.50" in text and "cities" in text
    assert "random, of like size" in text


def test_a_difference_names_both_tokens_and_nothing_firing_says_so():
    text = why_text(made(against=" London", firings=(), strongest=0, random=(), together=()))
    assert "less that of ‹ London›: +4.00" in text
    assert text.endswith("No feature fires on the prompt.")


def test_other_runs_and_the_edges_between_them_are_printed():
    edges = (Edge("low", 4, 0, "", 12, 1, 0.75), Edge("low", 5, 1, "", 7, 0, -0.25))
    text = why_text(made(skip=0.25, edges=edges, also=(made(run="low", site="resid_post.0"),)))
    assert "skip" in text and "+0.250" in text
    assert "-- low, at resid_post.0: features +2.125 logits" in text
    assert "low 4 at 0" in text and "+0.750" in text and "-0.250" in text
    table = made(edges=edges, also=(made(run="low"),)).to_dict()
    assert table["also"][0]["run"] == "low" and table["edges"][0]["weight"] == 0.75
