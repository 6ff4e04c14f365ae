"""Chats in templates of every kind: where turns stand, what is refused, what is stripped."""

import json

import pytest

from core.activations.tokenize import Chat
from core.errors import UsageError
from core.subject.chat import TurnChanged, chat_text, locate_turns
from core.subject.subject import Subject
from core.text.documents import read_corpus
from core.text.forms import Document
from tests.support.text import encode
from tests.support.tiny import byte_level_tokenizer, tiny_model

PLAIN = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}You: user a"
TRIMMED = PLAIN.replace("m.content", "m.content | trim")
ALTERNATING = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
)
SYSTEM_LAST = (
    "{% for m in messages if m.role != 'system' %}"
    "{% if loop.last %}{% for s in messages if s.role == 'system' %}({{ s.content }}) "
    "{% endfor %}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)
STRIPPING = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)
TEMPLATES = {"plain": PLAIN, "trimmed": TRIMMED, "system last": SYSTEM_LAST, "strips": STRIPPING}
# turns that say what the template says, and one another's words
HARD = [
    ("system", "user"),
    ("user", "a"),
    ("assistant", "You"),
    ("user", "user"),
    ("assistant", "  You: user a \n"),
]


def tokenizer_of(template):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", TEMPLATES)
def test_turns_are_found_whatever_they_say(template):
    """Each is rendered once more with words that stand nowhere else, and must be where those are."""
    tokenizer = tokenizer_of(TEMPLATES[template])
    made = locate_turns(tokenizer, HARD)
    assert made.text == chat_text(tokenizer, HARD)
    for i, ((role, content), (said_by, start, end)) in enumerate(
        zip(HARD, made.spans, strict=True)
    ):
        assert said_by == role
        assert made.text[start:end] == content.strip()
        other = [(r, c if j != i else f"zq{i}qz") for j, (r, c) in enumerate(HARD)]
        at = chat_text(tokenizer, other).index(f"zq{i}qz")
        kept = len(content) - len(content.lstrip()) if template != "trimmed" else 0
        assert start == at + kept


DROPPING = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"


@pytest.mark.parametrize("template", [ALTERNATING, DROPPING], ids=["refuses it", "drops it"])
def test_a_template_without_a_system_role_gets_its_text_in_front_of_the_users(template):
    tokenizer = tokenizer_of(template)
    turns = [("system", "be brief"), ("user", "who?"), ("assistant", "me")]
    made = locate_turns(tokenizer, turns)
    assert made.text == "[user] be brief\n\nwho?\n[assistant] me\n"
    assert [(role, made.text[a:b]) for role, a, b in made.spans] == turns


def test_turns_in_an_order_that_the_template_refuses_are_an_error():
    with pytest.raises(UsageError, match="must alternate"):
        locate_turns(tokenizer_of(ALTERNATING), [("assistant", "x"), ("user", "y")])


THINKING = [("user", "who?"), ("assistant", "<think>hm</think>me")]


def test_a_stripped_thought_is_told_or_kept_whole():
    tokenizer = tokenizer_of(STRIPPING)
    with pytest.raises(TurnChanged) as error:
        locate_turns(tokenizer, THINKING)
    assert error.value.thought
    kept = locate_turns(tokenizer, THINKING, keep_thoughts=True)
    assert [kept.text[a:b] for _, a, b in kept.spans] == [content for _, content in THINKING]


def test_chats_that_cannot_be_read_are_counted_and_the_others_are_read(tmp_path):
    template = ALTERNATING.replace("m.content | trim", "m.content.split('</think>')[-1]")
    subject = Subject(tiny_model("gpt2"), tokenizer_of(template))
    talks = [THINKING, [("assistant", "x"), ("user", "y")], [("user", "a"), ("assistant", "user")]]
    lines = [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in talks]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoded, left_out = encode(subject, read_corpus(str(tmp_path)))
    assert [d.text for d in encoded] == ["[user] a\n[assistant] user\n"]
    assert left_out == {
        "conversations whose thoughts the chat template strips": 1,
        "conversations that the chat template refuses": 1,
    }
    both, _ = encode(subject, read_corpus(str(tmp_path)), chat=Chat(thoughts=True))
    assert len(both) == 2
    (tmp_path / "a.jsonl").write_text(json.dumps(lines[1]) + "\n")
    with pytest.raises(UsageError, match="1 conversations that the chat template refuses"):
        encode(subject, read_corpus(str(tmp_path)))


def test_only_what_the_speakers_say_makes_near_copies():
    subject = Subject(tiny_model("gpt2"), tokenizer_of(PLAIN))
    talk = (("system", "be brief " * 40), ("user", "who are you?"), ("assistant", "a cat"))
    (encoded,), _ = encode(subject, [Document("x", "", talk)])
    said = "".join(
        encoded.text[a:b]
        for a, b, c in zip(encoded.starts, encoded.ends, encoded.compared, strict=True)
        if c
    )
    assert said == "who are you?a cat"
