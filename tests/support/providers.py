"""How providers of OpenAI-compatible endpoints differ: one function for each form that is met.

`PROVIDERS[name](body, usual)` answers a request, given as its JSON body, with (HTTP status, JSON).
`usual` is the text that a provider without peculiarities would answer with. The scripted servers
(`fault_server`, and `judge` of `fake_llm`) answer through it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.support.fake_llm import Answer, Seen

Served = tuple[int, dict | list | str]  # a string is sent as it is


def completion(content: Any, finish: str = "stop", choice: dict | None = None, **message) -> dict:
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish, "message": message, **(choice or {})}
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def error(status: int, message: str, **fields) -> Served:
    return status, {"error": {"message": message, **fields}}


# what servers say where the template of the model has no system role
NO_SYSTEM = {
    "vllm": (400, "System role not supported"),
    "vllm-alternate": (
        400,
        "Conversation roles must alternate user/assistant/user/assistant/...",
    ),
    "llama.cpp": (500, "Jinja Exception: System role not supported at row 1, column 33"),
    "mistral": (400, "Only user and assistant roles are supported!"),
    "tgi": (422, "Template error: invalid operation: System role not supported"),
    "openai-o1": (
        400,
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    ),
    "google": (400, "Developer instruction is not enabled for models/gemma-3-4b-it"),
    "bedrock": (400, "This model doesn't support system messages. Try again without one"),
    "lm-studio": (
        400,
        'Error rendering prompt with jinja template: "Only user and assistant roles are supported!"',
    ),
    "mlx": (404, "Please ensure all messages alternate between user and model."),
    "pydantic": (422, "Input should be 'user' or 'assistant' [input_value='system']"),
    "mistral-common": (400, "Expected last role User or Tool but got system"),
    "alternate-first": (400, "The first message must be from the user"),
}
# what filters of providers say: (status, the error's fields)
FILTERS = {
    "azure": (
        400,
        {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's "
            "content management policy.",
            "code": "content_filter",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        },
    ),
    "openai": (
        400,
        {
            "message": "Invalid prompt: your prompt was flagged as potentially violating our "
            "usage policy.",
            "code": "invalid_prompt",
        },
    ),
    "deepseek": (400, {"message": "Content Exists Risk", "type": "invalid_request_error"}),
    "dashscope": (
        400,
        {
            "message": "Input data may contain inappropriate content.",
            "code": "DataInspectionFailed",
        },
    ),
    "openrouter": (403, {"message": "google/gemini requires moderation. Your input was flagged"}),
    "legal": (451, {"message": "Unavailable for legal reasons"}),
    "anthropic": (400, {"message": "Output blocked by content filtering policy"}),
    "together": (422, {"message": "Input rejected by safety model 'meta-llama/Llama-Guard-4'"}),
    "moonshot": (400, {"message": "The request was rejected because it was considered high risk"}),
    "xai": (403, {"message": "Content violates usage guidelines. Failed check: SAFETY_CHECK"}),
    "zhipu": (400, {"code": "1301", "message": "系统检测到输入内容可能包含不安全或敏感内容"}),
    "bedrock": (400, {"message": "The generated text has been blocked by our content filters."}),
}


def _refuse_system(status: int, message: str) -> Callable[[dict, str], Served]:
    def serve(body: dict, usual: str) -> Served:
        if any(turn["role"] == "system" for turn in body["messages"]):
            return error(status, message)
        return 200, completion(usual)

    return serve


def _filter(status: int, fields: dict) -> Callable[[dict, str], Served]:
    def serve(body: dict, usual: str) -> Served:
        if "forbidden" in json.dumps(body["messages"]):
            return status, {"error": fields}
        return 200, completion(usual)

    return serve


def _filter_in_the_choice(body: dict, usual: str) -> Served:
    if "forbidden" in json.dumps(body["messages"]):
        return 200, completion(None, "content_filter")
    return 200, completion(usual)


def _reason(name: str) -> Callable[[dict, str], Served]:
    def serve(body: dict, usual: str) -> Served:
        return 200, completion(None, **{name: usual})

    return serve


def _alternatives(most: int, message: str, answer: str = "7") -> Callable[[dict, str], Served]:
    def serve(body: dict, usual: str) -> Served:
        wanted = body.get("top_logprobs", 0)
        if wanted > most:
            return error(400, message)
        tops = [{"token": str(i), "logprob": -0.5 - i} for i in range(wanted)]
        token = {"token": answer, "logprob": -0.1, "top_logprobs": tops}
        return 200, completion(usual, choice={"logprobs": {"content": [token]}} if wanted else {})

    return serve


def _error_in_the_choice(body: dict, usual: str) -> Served:
    stated = {"code": 502, "message": "the upstream provider broke off"}
    return 200, completion("half an ans", "error", {"error": stated})


def _finish_error(body: dict, usual: str) -> Served:
    return 200, completion(None, "error")


def _error_with_status_200(body: dict, usual: str) -> Served:
    return 200, {"error": {"message": "no instance is free", "code": 503}}


def _answer(usual_of: Callable[[str], dict]) -> Callable[[dict, str], Served]:
    return lambda body, usual: (200, usual_of(usual))


def _without(*names: str) -> Callable[[dict, str], Served]:
    def serve(body: dict, usual: str) -> Served:
        table = completion(usual)
        return 200, {name: value for name, value in table.items() if name not in names}

    return serve


def _events(usual: str) -> str:
    """The usual answer as a stream of events, a few characters each."""
    pieces = [usual[i : i + 3] for i in range(0, len(usual), 3)]
    chunks: list[dict] = [{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}]
    chunks += [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    chunks += [{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}]
    lines = [f"data: {json.dumps({'id': 'c', **chunk})}" for chunk in chunks]
    return "\n\n".join([": keep-alive", *lines, "data: [DONE]", ""])


def _stream_of_parts(usual: str) -> str:
    """The usual answer as the arguments of a call, with what else streams hold in between."""
    half = len(usual) // 2
    calls = [{"index": 0, "function": {"arguments": text}} for text in (usual[:half], usual[half:])]
    chunks: list[dict] = [{"choices": []}, {"choices": None}, {"choices": [{"delta": None}]}]
    chunks += [{"choices": [{"delta": {"tool_calls": [call]}}]} for call in calls]
    chunks += [{"choices": [{"delta": {}, "logprobs": [], "finish_reason": "tool_calls"}]}]
    lines = [f"event: message\r\ndata:{json.dumps(chunk)}" for chunk in chunks]
    return "\ufeff" + "\r\n\r\n".join([*lines, "data:[DONE]", ""])


def _stream_of_text(usual: str) -> str:
    pieces = [{"text": usual[:4]}, {"text": usual[4:], "finish_reason": "stop"}]
    return "\n\n".join(f"data: {json.dumps({'choices': [piece]})}" for piece in pieces) + "\n\n"


def _stream_only(message: str) -> Callable[[dict, str], Served]:
    def serve(body: dict, usual: str) -> Served:
        return (200, _events(usual)) if body.get("stream") else error(400, message)

    return serve


def _tool_call(usual: str) -> dict:
    call = {"type": "function", "function": {"name": "answer", "arguments": usual}}
    return completion(None, "tool_calls", tool_calls=[call])


# what providers do to an answer that is there; each is read as the usual one
READ = {
    "usage missing": _without("usage"),
    "usage null": _answer(lambda usual: completion(usual) | {"usage": None}),
    "usage odd": _answer(lambda usual: completion(usual) | {"usage": {"prompt_tokens": "?"}}),
    "only the choice": _without("usage", "id", "object", "created", "model"),
    "finish missing": _answer(lambda usual: completion(usual, None)),
    "finish of others": _answer(lambda usual: completion(usual, "STOP")),
    "content in parts": _answer(lambda usual: completion([{"type": "text", "text": usual}])),
    "content in a call": _answer(_tool_call),
    "text instead of a message": _answer(
        lambda usual: {"choices": [{"text": usual, "finish_reason": "eos_token"}]}
    ),
    "finish as an object": _answer(lambda usual: completion(usual, {"type": "stop"})),
    "finish of anthropic": _answer(lambda usual: completion(usual, "end_turn")),
    "content beside thoughts": _answer(
        lambda usual: completion(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": '{"label": "dogs"}'}]},
                None,
                {"type": "text", "text": usual},
            ]
        )
    ),
    "reasoning beside an answer": _answer(
        lambda usual: completion(usual, reasoning_content='{"label": "dogs"}')
    ),
    "log-probabilities odd": _answer(lambda usual: completion(usual, choice={"logprobs": [1]})),
    "a text as the message": _answer(
        lambda usual: {"choices": [{"message": usual, "finish_reason": "stop"}]}
    ),
    "blank lines in front": lambda body, usual: (200, "\n\n \n" + json.dumps(completion(usual))),
    "comments in front": lambda body, usual: (
        200,
        ": OPENROUTER PROCESSING\n\n" * 2 + json.dumps(completion(usual)),
    ),
    "a mark in front": lambda body, usual: (200, "\ufeff" + json.dumps(completion(usual))),
    "a stream of a call": lambda body, usual: (200, _stream_of_parts(usual)),
    "a stream of text": lambda body, usual: (200, _stream_of_text(usual)),
    "a stream unasked": lambda body, usual: (200, _events(usual)),
    "streams only": _stream_only("This model only support stream mode, please enable it."),
    "streams only, dashscope": _stream_only(
        "parameter.enable_thinking must be set to false for non-streaming calls"
    ),
    "streams only, others": _stream_only("The stream parameter must be true for this model."),
}
# errors with status 200, in the forms of several programs
ERRORS = {
    "error 200 text": {"error": "no instance is free"},
    "error 200 detail": {"detail": "no instance is free"},
    "error 200 message": {"object": "error", "message": "no instance is free", "code": 50301},
    "error 200 list": [{"error": {"code": 503, "message": "no instance is free"}}],
    "error 200 no choices": {"choices": [], "message": "no instance is free"},
    "error 200 stream": 'data: {"error": {"message": "no instance is free"}}\n\n',
    "error 200 cut stream": 'data: {"choices": [{"delta": {"content": "half an ans"}}]}\n\n',
    "error 200 broken off": completion("half an ans", "insufficient_system_resource"),
    "error 200 aborted": completion("half an ans", "abort"),
    "error 200 null choice": {"choices": [None]},
    "error 200 choices as an object": {"choices": {"0": completion("a")["choices"][0]}},
    "error 200 another protocol": {"message": {"role": "assistant", "content": "a"}, "done": True},
    "error 200 wrong path": {"error": "Unexpected endpoint or method. Returning 200 anyway"},
    "error 200 rate": {"error": {"code": 429, "message": "Please retry in 2ms"}},
    "error 200 event": 'data: {"choices": [{"delta": {"content": "a"}}]}\n\nevent: error\ndata: {}',
    "error 200 empty": "",
    "error 200 null": "null",
    "error 200 page": "<html><body>502 Bad Gateway</body></html>",
}
PROVIDERS: dict[str, Callable[[dict, str], Served]] = {
    **{f"no-system {name}": _refuse_system(*said) for name, said in NO_SYSTEM.items()},
    **{f"filter {name}": _filter(*said) for name, said in FILTERS.items()},
    "filter choice": _filter_in_the_choice,
    "reasoning_content": _reason("reasoning_content"),
    "reasoning": _reason("reasoning"),
    "five-alternatives named": _alternatives(5, "top_logprobs must be at most 5"),
    "five-alternatives unnamed": _alternatives(5, "Input validation error"),
    "two-alternatives": _alternatives(2, "logprobs: must be less than or equal to 2"),
    "finish-error": _finish_error,
    "finish-error choice": _error_in_the_choice,
    "error 200": _error_with_status_200,
    **{name: lambda body, usual, said=said: (200, said) for name, said in ERRORS.items()},
    **READ,
}


def judge(name: str, usual: str = "ok") -> Callable[[Seen], Answer]:
    """What `FakeLLM(judge=...)` takes: the provider of this name."""

    def answer(seen: Seen) -> Answer:
        status, table = PROVIDERS[name](seen.body, usual)
        return Answer(table if isinstance(table, str) else json.dumps(table), status)

    return answer
