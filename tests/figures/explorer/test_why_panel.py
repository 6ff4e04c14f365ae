"""The panel of one token: what the server takes, and what it refuses, without a run behind it."""

import pytest

from figures.explorer.server import Limits, LiveCalls, Refused, Server


def server(why):
    """A server of one run that answers `why` alone."""
    made = object.__new__(Server)
    made.every, made.limits = [None], Limits()
    made.calls = [LiveCalls(lambda text: {}, lambda *asked: {}, why=why)]
    return made


def test_the_panel_of_a_token_asks_why_the_next_one_follows():
    asked = []

    def why(text, at, top):
        asked.append((text, at, top))
        return {"token": " sat"}

    assert server(why).why({"text": "the cat sat", "at": 1, "top": 5}) == {"token": " sat"}
    assert asked == [("the cat sat", 1, 5)]


@pytest.mark.parametrize(
    "wrong", [{"at": -1}, {"at": "1"}, {"top": 0}, {"top": 1000}, {"text": " "}, {"at": None}]
)
def test_other_requests_are_refused(wrong):
    with pytest.raises(Refused):
        server(lambda *asked: {}).why({"text": "the cat sat", "at": 1, "top": 5} | wrong)


def test_a_server_without_the_call_says_so():
    with pytest.raises(Refused, match="cannot attribute"):
        server(None).why({"text": "a", "at": 0, "top": 1})
