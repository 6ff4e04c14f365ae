"""A tap sees what the pass at hand computed at its site, and nothing outside its block."""

import pytest
import torch

from core.errors import UsageError
from core.records import Site
from core.subject.tap import Tap
from tests.support.tiny import token_rows

pytestmark = pytest.mark.numeric
ROWS = token_rows(2, 9)


def test_an_edit_gets_what_the_same_pass_computed_in_front(gpt2):
    seen = []
    with Tap(gpt2, Site("mlp_in", 1)) as tap:
        gpt2.logits(ROWS, Site("mlp_out", 1), lambda h, _: seen.append(tap.hidden) or h)
        other = gpt2.logits(ROWS[:1], Site("mlp_out", 1), lambda h, _: seen.append(tap.hidden) or h)
    torch.testing.assert_close(seen[0], gpt2.read(Site("mlp_in", 1), ROWS), rtol=0, atol=0)
    assert seen[1].shape[0] == 1 and len(other) == 1


def test_a_tap_behind_the_edit_says_so(gpt2):
    with Tap(gpt2, Site("mlp_in", 2)) as tap, pytest.raises(UsageError, match="has not reached"):
        gpt2.logits(ROWS, Site("mlp_out", 1), lambda h, _: h + tap.hidden)


def test_it_may_be_entered_twice_and_forgets_when_it_is_left(gpt2):
    tap = Tap(gpt2, Site("mlp_in", 1))
    with tap:
        with tap:
            gpt2.logits(ROWS)
        assert tap.hidden.shape[:2] == ROWS.shape
    with pytest.raises(UsageError):
        tap.hidden  # noqa: B018
