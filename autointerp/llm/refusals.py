"""What the errors of an endpoint mean: what a model refuses, filters, keys, credit and lengths."""

from __future__ import annotations

import html
import json
import re
from typing import Any

# The texts with which templates and providers refuse a system role, and a text itself
NO_SYSTEM = re.compile(
    r"system[ _-]?(role|prompt|message|instruction)s?\b|\brole\W{1,4}system|\bsystem\W{1,3}role"
    r"|(roles?|messages?) must alternate|messages? alternate|only user|first message.{0,24}user"
    r"|(user|assistant)\W+(and|or)\W+(assistant|user)\W.*\brole"
    r"|developer instruction"
    r"|(support|allow|accept|expect|enabled|unknown|invalid|input_value|got)\w*\W.{0,24}\bsystem\b",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content.{0,3}(filter|management|polic|moderation|violation|exists risk)|content.{0,20}blocked"
    r"|moderation|flagged|responsible.?ai|usage (polic|guideline)"
    r"|safety[ _-]?(system|polic|filter|setting|reason|model|check)"
    r"|block_?reason|data_?inspection|inappropriate|prohibited|harmful|high[ -]risk"
    r"|(?<!case.)(?<!time.)\bsensitive\b(?! data)|new_sensitive"
    r"|unsafe[ _](content|prompt|input|output|text)"
    r"|(content|prompt|input|output|text) .{0,20}unsafe"
    r"|\b(blocked|rejected) (by|due to|because of) .{0,30}(polic|safety|filter|guardrail)|guardrail"
    r"|(prompt|model|response|request) blocked\b|violat\w* .{0,40}(polic|guideline|terms)"
    r"|policy[ _]violation|敏感|违规|违法|不安全|不当",
    re.IGNORECASE,
)
ONLY_STREAMS = re.compile(
    r"only.{0,20}stream|stream\W*(parameter )?.{0,20}(required|must be (true|enabled|set))"
    r"|(enable|set|use|requires?).{0,12}\bstream|non-?\s?stream",
    re.IGNORECASE,
)
NO_CREDIT = re.compile(
    r"credit balance|insufficient[ _](credit|balance|funds|quota)|out of credits?|no credits? left"
    r"|billing[ _](hard[ _])?limit|used all available credits|not enough credits?|add more credits?"
    r"|余额不足|欠费",
    re.IGNORECASE,
)
NO_KEY = re.compile(
    r"(api|access|subscription)[ _-]?key.{0,40}(not valid|invalid|incorrect|expired|missing)"
    r"|(invalid|incorrect|missing|expired|no) (api|access)[ _-]?key",
    re.IGNORECASE,
)
TOO_LONG = re.compile(
    r"max_(completion_|new_|output_)?tokens|context.{0,3}(length|window|size)|maximum.{0,30}tokens"
    r"|max_total_tokens|too many tokens|token limit",
    re.IGNORECASE,
)
# Ends of a reply that is not whole: the provider broke off
BROKEN_OFF = frozenset(
    (
        *("error", "abort", "aborted", "cancelled", "canceled", "timeout", "network_error"),
        *("insufficient_system_resource", "malformed_function_call", "engine_overloaded"),
    )
)


def refused_parameter(sent: dict, named: str, text: str) -> str:
    """Which of the parameters `sent` an error complains of, or "".

    `named` is the error's own `param`, if it has one. max_tokens is renamed only where the text
    says so: vLLM names both spellings when the context is too long.
    """
    if (
        "max_tokens" in sent
        and "max_completion_tokens" in text
        and re.search(r"instead|unsupported|not supported", text, re.IGNORECASE)
    ):
        return "max_tokens"
    if "response_format" in sent and "failed to generate json" in text.casefold():
        return "response_format"  # Groq's check of one reply; others may fail it too
    complained = named or text
    known = ("temperature", "response_format", "stream_options")
    return next((name for name in known if name in sent and name in complained), "")


def is_filtered(status: int, stated: Any) -> bool:
    """Whether an error is the verdict of a content filter on one text.

    `stated` is what the error says: an object or a text.
    """
    said = stated if isinstance(stated, str) else json.dumps(stated, ensure_ascii=False)
    return status == 451 or (status in (400, 403, 422) and bool(FILTERED.search(said)))


def is_out_of_credit(status: int, code: Any, text: str) -> bool:
    """Whether an error says that nothing is left to pay with."""
    if status == 402 or code in ("insufficient_quota", "billing_hard_limit_reached"):
        return True
    return status in (400, 403, 429) and bool(NO_CREDIT.search(text))


def is_wrong_key(status: int, text: str) -> bool:
    """Whether an error refuses the key; Google does so with status 400."""
    return status == 401 or (status in (400, 403) and bool(NO_KEY.search(text)))


def is_too_long(status: int, sent: dict, text: str) -> bool:
    """Whether an error says that more tokens are asked for than the model can write."""
    return status in (400, 413, 422) and "max_tokens" in sent and bool(TOO_LONG.search(text))


def plain_text(text: str) -> str:
    """The text of an error; of a page of HTML, its title or what a browser would show."""
    if not re.search(r"<(!doctype )?html|<head|<body|<title", text[:2000], re.IGNORECASE):
        return text
    title = re.search(r"<title[^>]*>\s*(.*?)\s*</title>", text, re.IGNORECASE | re.DOTALL)
    if title and title[1]:
        return html.unescape(title[1])
    bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.IGNORECASE | re.DOTALL)
    return html.unescape(bare).strip() or "a page without text"
