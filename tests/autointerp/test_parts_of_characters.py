"""What prompts, pages and exports show of characters that are several tokens."""

from types import SimpleNamespace

import numpy as np
import pytest

from autointerp.examples import Examples
from autointerp.labels.prompt import Shown, label_messages
from autointerp.scores import prompts
from autointerp.scores.detection import write_window
from autointerp.scores.simulator import MODES, read_windows
from core.firings.postings import Postings
from core.text.tokens import Tokens


@pytest.fixture(scope="module")
def examples(tiny_run):
    folder = tiny_run.folder("capture")
    return Examples(Postings(tiny_run.folder("index"), folder), Tokens(folder))


def places_of_parts(tokens):
    """Ordinals of tokens that hold part of a character, at least 16 tokens from a document's end."""
    parts = [i for i, text in enumerate(tokens.vocabulary) if "<0x" in text]
    ordinals = np.flatnonzero(np.isin(tokens.ids, parts))
    assert len(ordinals) > 20
    return ordinals[:40]


def test_no_prompt_holds_a_broken_character_and_whole_ones_are_shown(examples):
    """The documents hold emoji, 雪 and accents, of which the subject knows the bytes alone."""
    tokens = examples.tokens
    for ordinal in places_of_parts(tokens).tolist():
        (start,), (end,) = examples.window(np.array([ordinal]))
        panel = SimpleNamespace(starts=[start], ends=[end], marks=[np.array([ordinal])])
        context = SimpleNamespace(tokens=tokens)
        detection, fuzzing = (write_window(context, panel, 0, marked) for marked in (False, True))
        windows = read_windows(tokens, [np.arange(start, end)])
        simulation = [str(mode.messages("a label", windows)) for mode in MODES.values()]
        firing = (np.array([ordinal]), np.ones(1, np.float32))
        (snippet,) = examples.cut(0, firing, np.array([ordinal]), ["top"], [0.0])
        label = str(label_messages(Shown([snippet], [], [], 0.1, 1.0, [])))
        for shown in (detection, fuzzing, label, *simulation):
            assert "\ufffd" not in shown and "\\ufffd" not in shown
        marked = fuzzing[fuzzing.index("<<") + 2 : fuzzing.index(">>")]
        assert marked, "a mark on a later part marks the character"
        assert marked in "".join(tokens.spell(start, end))
        assert f"\u27e6{marked}\u27e7" in label
        assert len(windows[0]) == end - start and all(windows[0])


def test_marks_on_any_part_mark_the_character():
    tokens = ["a ", "雪", "", "", " b"]
    shown = {prompts.marked_text(tokens, {place}) for place in (1, 2, 3)}
    assert shown == {'"a <<雪>> b"'}
    assert prompts.marked_text(tokens, set()) == '"a 雪 b"'
