"""The panel of one token: what the server takes, and what it refuses, without a run behind it."""

import pytest

from figures.explorer.live import LiveCalls
from figures.explorer.server import Limits, Refused, Server

ASKED = {"text": "the cat sat", "at": 1, "top": 2}
MADE = {  # of `Attribution.to_dict`
    "token": " sat",
    "tokens": ["the", " cat"],
    "strongest": 2,
    "random": [3],
    "firings": [
        {"feature": f, "position": p, "attribution": a, "change": c}
        for f, p, a, c in (
            (7, 1, 2.0, -1.5),
            (8, 0, -1.0, 1.0),
            (7, 0, 0.5, None),
            (9, 1, 0.25, -0.3),
        )
    ],
    "rank_correlation": float("nan"),
}


def server(why):
    """A server of one run that answers `why` alone."""
    made = object.__new__(Server)
    made.every, made.limits = [None], Limits()
    chat = lambda text, answer: f"<user>{text}</user>"
    made.calls = [LiveCalls(lambda text: {}, lambda *asked: {}, as_chat=chat, why=why)]
    return made


def test_the_panel_of_a_token_asks_why_the_next_one_follows():
    asked = []

    def why(*given):
        asked.append(given)
        return MADE

    panel = server(why).why(ASKED)
    server(why).why(ASKED | {"against": " ran", "chat": True})
    assert asked == [("the cat sat", 1, "", 2), ("<user>the cat sat</user>", 1, " ran", 2)]
    assert panel["by_token"] == [-0.5, 2.25] and panel["n_firings"] == 4
    assert [(f["feature"], f["random"]) for f in panel["firings"]] == [
        (7, False),
        (8, False),
        (9, True),
    ]
    assert panel["rank_correlation"] is None  # JSON has no NaN


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": -1}, {"at": "1"}, {"top": 0}, {"top": 1000}, {"text": " "}, {"at": None},
        {"against": 3}, {"at": 400},
    ],
)  # fmt: skip
def test_other_requests_are_refused(wrong):
    with pytest.raises(Refused):
        server(lambda *asked: MADE).why(ASKED | wrong)


def test_a_server_without_the_call_says_so():
    with pytest.raises(Refused, match="cannot attribute"):
        server(None).why({"text": "a", "at": 0, "top": 1})
