"""Records have one text form, and it reads back."""

import pytest

from core.records import Undefined


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Undefined("too_rare", "fires in 3 documents"), "too_rare: fires in 3 documents"),
        (Undefined("unparsable"), "unparsable"),
        (Undefined("constant", "the label: always 0"), "constant: the label: always 0"),
    ],
)
def test_a_reason_reads_back_from_its_text(reason, text):
    assert str(reason) == text
    assert Undefined.parse(text) == reason


def test_an_empty_text_is_no_reason():
    assert Undefined.parse("") is None
