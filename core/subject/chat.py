"""Chats in a subject's template: the text, and where in it each turn stands.

A turn is found by construction, never by its words: the conversation is rendered a second time with
a mark in the place of each turn, and what stands around the marks is the template's own text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from core.errors import UsageError

Turns = Sequence[tuple[str, str]]  # (role, content)
BETWEEN = "\n\n"  # between a system text and the user's turn that it is put in front of
MARK = "\ue000{}\ue001"  # from a private range of Unicode


class TurnChanged(Exception):
    """The template shows something else than the turn says; `role` is its speaker."""

    def __init__(self, role: str, thought: bool):
        super().__init__(role)
        self.role, self.thought = role, thought


@dataclass(frozen=True)
class ChatText:
    """A rendered conversation.

    `spans` holds (role, first character, one past the last) of each turn, in the turns' order.
    """

    text: str
    spans: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class _Message:
    """One message of the template, made of one turn or of a system text and the user's turn."""

    role: str
    parts: tuple[tuple[str, str], ...]

    @property
    def content(self) -> str:
        return BETWEEN.join(text for _, text in self.parts)


def chat_text(tokenizer: Any, turns: Turns, answer: bool = False) -> str:
    """(role, content) turns in the chat template of `tokenizer`, without BOS in front.

    With `answer`, the text ends where the assistant's next turn begins. A template without a system
    role gets the system's text in front of the first user's turn. Raises UsageError where there is
    no template or the template refuses the turns.
    """
    return _render_messages(tokenizer, turns, answer)[0]


def locate_turns(
    tokenizer: Any, turns: Turns, answer: bool = False, keep_thoughts: bool = False
) -> ChatText:
    """The conversation as `chat_text` gives it, and where each turn stands in it.

    With `keep_thoughts`, a turn that the template changes is put in whole. Raises what `chat_text`
    raises, and TurnChanged for a turn that the template changes in more than the white space around
    it.
    """
    text, messages = _render_messages(tokenizer, turns, answer)
    try:
        return _locate(tokenizer, text, messages, answer, keep_thoughts)
    except TurnChanged as error:  # a template without a system role may also drop its text
        merged = _merge_system(messages)
        if error.role != "system" or merged is None:
            raise
        text = _render(tokenizer, _pairs(merged), answer)
        return _locate(tokenizer, text, merged, answer, keep_thoughts)


def _locate(
    tokenizer: Any, text: str, messages: list[_Message], answer: bool, keep_thoughts: bool
) -> ChatText:
    """The rendered messages and the places of their turns; raises TurnChanged."""

    def render(contents: list[str]) -> str:
        return _render(tokenizer, list(zip(_roles(messages), contents, strict=True)), answer)

    places = _match_all(text, messages, render)
    if places is None and keep_thoughts:
        text, places = _fill(messages, render)
    if places is None:
        places = [_match_one(text, messages, i, render) for i in range(len(messages))]
    spans = [
        span
        for message, (start, end) in zip(messages, places, strict=True)
        for span in _split_message(message, start, text[start:end])
    ]
    return ChatText(text, tuple(spans))


# ---------------------------------------------------------------- rendering


def _render_messages(tokenizer: Any, turns: Turns, answer: bool) -> tuple[str, list[_Message]]:
    messages = [_Message(role, ((role, content),)) for role, content in turns]
    try:
        return _render(tokenizer, _pairs(messages), answer), messages
    except UsageError:
        merged = _merge_system(messages)
        if merged is None or not tokenizer.chat_template:
            raise
        try:
            return _render(tokenizer, _pairs(merged), answer), merged
        except UsageError:
            pass
        raise


def _render(tokenizer: Any, turns: Turns, answer: bool) -> str:
    if not tokenizer.chat_template:
        raise UsageError(
            "The subject has no chat template.",
            "Leave --chat out, or use a subject that was trained to chat.",
        )
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            f"The chat template refuses the turns: {error}.",
            "Use the roles and the order that the subject knows.",
        ) from None
    return text.removeprefix(tokenizer.bos_token or "")


def _merge_system(messages: list[_Message]) -> list[_Message] | None:
    """The messages with a leading system text in the user's first turn; None without one."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return None
    return [_Message("user", messages[0].parts + messages[1].parts), *messages[2:]]


def _roles(messages: list[_Message]) -> list[str]:
    return [message.role for message in messages]


def _pairs(messages: list[_Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


# ---------------------------------------------------------------- places


Render = Callable[[list[str]], str]
Places = list[tuple[int, int]]


def _match_all(text: str, messages: list[_Message], render: Render) -> Places | None:
    """The places of all messages, from one rendering with a mark in each; None if they do not fit.

    They fit when the text is the template's own parts with each content, or the content without the
    white space around it, between them.
    """
    marks = [MARK.format(i) for i in range(len(messages))]
    marked = render(marks)
    if any(marked.count(mark) != 1 for mark in marks):
        return None
    order = sorted(range(len(marks)), key=lambda i: marked.index(marks[i]))
    places: dict[int, tuple[int, int]] = {}
    done, at = 0, 0  # characters of `marked` and of `text` that have been matched
    for place, i in enumerate(order):
        before = marked[done : marked.index(marks[i])]
        done += len(before) + len(marks[i])
        following = marks[order[place + 1]] if place + 1 < len(order) else None
        after = marked[done : marked.index(following) if following else len(marked)]
        start = at + len(before)
        content = messages[i].content
        found = next(
            (
                shown
                for shown in (content, content.strip(), content.rstrip(), content.lstrip())
                if text.startswith(before, at) and text.startswith(shown + after, start)
            ),
            None,
        )
        if found is None:
            return None
        at = start + len(found)
        places[i] = (start, at)
    if text[at:] != marked[done:]:
        return None
    return [places[i] for i in range(len(messages))]


def _match_one(text: str, messages: list[_Message], i: int, render: Render) -> tuple[int, int]:
    """The place of message `i`, from a rendering with a mark in its place alone."""
    message = messages[i]
    contents = [m.content for m in messages]
    before, found, after = render([*contents[:i], MARK, *contents[i + 1 :]]).partition(MARK)
    start, end = len(before), len(text) - len(after)
    fits = bool(found) and start <= end and text.startswith(before) and text.endswith(after)
    if not fits or text[start:end].strip() != message.content.strip():
        raise TurnChanged(message.role, "</think>" in message.content)
    return start, end


def _fill(messages: list[_Message], render: Render) -> tuple[str, Places | None]:
    """The template's own parts with every content in full between them, and the places."""
    marks = [MARK.format(i) for i in range(len(messages))]
    marked = render(marks)
    if any(marked.count(mark) != 1 for mark in marks):
        return marked, None
    places: dict[int, tuple[int, int]] = {}
    text, done = "", 0
    for i in sorted(range(len(marks)), key=lambda i: marked.index(marks[i])):
        text += marked[done : marked.index(marks[i])]
        places[i] = (len(text), len(text) + len(messages[i].content))
        text += messages[i].content
        done = marked.index(marks[i]) + len(marks[i])
    return text + marked[done:], [places[i] for i in range(len(messages))]


def _split_message(message: _Message, start: int, shown: str) -> list[tuple[str, int, int]]:
    """(role, start, end) of each turn in a message that stands at `start`, white space apart."""
    at = start + len(shown) - len(shown.lstrip())
    at -= len(message.content) - len(message.content.lstrip())  # where the whole content begins
    spans = []
    for role, content in message.parts:
        inner = content.strip()
        first = at + len(content) - len(content.lstrip())
        spans.append((role, first, first + len(inner)))
        at += len(content) + len(BETWEEN)
    return spans
