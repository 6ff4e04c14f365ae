"""Read and write OpenAI Batch API files: half the price overnight, or any other way of answering.

A line of requests is {"custom_id", "method", "url", "body"}; `custom_id` is the key under which the
reply is stored, so answers may come back in any order and in several files. A line of answers is
{"custom_id", "response": {"status_code", "body"}, "error"}. An answer that is an error, or no whole
chat completion, is left out and counted: its request stays unanswered and can be asked again.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from autointerp.llm.replies import Request, is_completion
from core.errors import UsageError
from core.files import replace_file

URL = "/v1/chat/completions"


def write_batch(
    path: Path,
    requests: Iterable[Request],
    parameters: Callable[[Request], dict],
    messages: Callable[[Request], list[dict]],
) -> int:
    """Write each distinct request as one line; returns how many there are.

    `parameters(request)` returns the parameters that the request's model accepts, and
    `messages(request)` its messages in a form that the model accepts.
    """
    distinct = {request.key: request for request in requests}
    with replace_file(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for key, request in distinct.items():
            body = {"model": request.model, "messages": messages(request), **parameters(request)}
            line = {"custom_id": key, "method": "POST", "url": URL, "body": body}
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(distinct)


def read_batch(spec: str) -> tuple[dict[str, str], int]:
    """({key: raw completion}, number of lines without one) of the files that `spec` names.

    `spec` holds paths or patterns, separated by commas. The first of two answers to one request
    counts. Raises UsageError when a file does not exist or a line is not an answer.
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
    paths = []
    for part in filter(None, (p.strip() for p in spec.split(","))):
        matched = [part] if Path(part).is_file() else sorted(glob.glob(part))
        if not matched:
            raise UsageError(
                f"There is no file {part!r} with answers.",
                "Give --batch-in FILE, several separated by commas, or a quoted pattern.",
            )
        paths += [Path(name) for name in matched]
    return paths


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
