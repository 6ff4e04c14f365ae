"""Requests and answers as files, in OpenAI's Batch format: for a night at half price, or for any other way of answering.

A line of requests is {"custom_id", "method", "url", "body"}; `custom_id` is the key under which the reply is stored, so answers may
come back in any order and in several files. A line of answers is {"custom_id", "response": {"status_code", "body"}, "error"}. An answer that is an error, or
no whole chat completion, is left out and counted: its request stays unanswered and can be asked again.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable
from pathlib import Path

from autointerp.llm.replies import Request, is_completion
from core.errors import UsageError
from core.files import replacing

URL = "/v1/chat/completions"


def write_batch(path: Path, requests: Iterable[Request], parameters) -> int:
    """Write each distinct request as one line; `parameters(request)` gives what its model accepts. Returns how many there are."""
    distinct = {request.key: request for request in requests}
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for key, request in distinct.items():
            body = {"model": request.model, "messages": request.messages, **parameters(request)}
            handle.write(
                json.dumps(
                    {"custom_id": key, "method": "POST", "url": URL, "body": body},
                    ensure_ascii=False,
                )
                + "\n"
            )
    return len(distinct)


def read_batch(spec: str) -> tuple[dict[str, str], int]:
    """({key: raw completion}, lines that hold none) of the files that `spec` names: one or more paths or patterns, with commas between.

    Of two answers to one request the first stays. Raises UsageError when a file is not there or a line is not an answer.
    """
    answers: dict[str, str] = {}
    failed = 0
    for path in _paths(spec):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            key, raw = _answer(path, number, line)
            if is_completion(raw):
                answers.setdefault(key, raw)
            else:
                failed += 1
    return answers, failed


def _paths(spec: str) -> list[Path]:
    found = []
    for part in filter(None, (p.strip() for p in spec.split(","))):
        matched = (
            [Path(part)] if Path(part).is_file() else [Path(p) for p in sorted(glob.glob(part))]
        )
        if not matched:
            raise UsageError(
                f"There is no file {part!r} with answers.",
                "Give --batch-in FILE, several with commas between, or a quoted pattern.",
            )
        found += matched
    return found


def _answer(path: Path, number: int, line: str) -> tuple[str, str]:
    """(key, raw JSON of the body or "") of one line."""
    try:
        table = json.loads(line)
        key = table["custom_id"]
        response = table.get("response") or {}
        body = response.get("body") if response.get("status_code") == 200 else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{path}, line {number}, is not an answer of a batch.",
            "Each line holds custom_id and response, as OpenAI's Batch writes them.",
        ) from None
    return str(key), json.dumps(body, ensure_ascii=False) if body else ""
