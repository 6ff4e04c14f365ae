"""A scripted model: labels features by the token they fire on, and scores a label by firing where
the token in its quotes stands.

`Oracle(noise=p)` answers each item at random with probability p (a fixed draw for each question),
so that scores must fall as p rises. `logprobs=True` makes an endpoint that tells log-probabilities,
and so is asked for digits; `prompt=True` one that tells those of questions, a character a token;
`rules=True` labels in the language of rules.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re

from autointerp.llm.probe import SYSTEM as PROBE
from tests.support.fake_llm import Answer, completion

QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


class Oracle:
    """Call it with what a FakeLLM has seen; it returns an Answer."""

    def __init__(
        self,
        noise: float = 0.0,
        logprobs: bool = False,
        rules: bool = False,
        label=None,
        prompt: bool = False,
    ):
        self.noise, self.logprobs, self.rules, self.label, self.prompt = (
            noise,
            logprobs,
            rules,
            label,
            prompt,
        )
        self.asked: dict[str, int] = {}

    def __call__(self, seen) -> Answer:
        messages = seen.body["messages"]
        if messages[0]["content"] == PROBE or len(messages) == 1:
            return self._probe(seen.body)
        if "prompt_logprobs" in seen.body:
            return self._slots(messages)
        system, user = (m["content"] for m in messages)
        luck = random.Random(hashlib.sha256(user.encode()).digest())
        for sign, answer in {
            '{"sequences"': self._sparse, "exactly one digit": self._digits, "between << and >>. From": self._fuzzing,
            "whether it fires anywhere": self._detection, "Write": self._texts, "was turned up": self._choice, "find out what": self._label,
        }.items():  # fmt: skip
            if sign in system:
                self.asked[sign] = self.asked.get(sign, 0) + 1
                return answer(user, luck, seen.body)
        raise AssertionError(f"an unknown question: {system}")

    def _probe(self, body) -> Answer:
        if self.prompt and "prompt_logprobs" in body:
            return with_prompt(
                completion("yes"), [None, {"5": {"logprob": -1.0, "decoded_token": "x"}}]
            )
        return spelt(
            "7" if "digit" in body["messages"][-1]["content"] else "yes",
            self.logprobs and body.get("logprobs"),
        )

    def _label(self, user, luck, _) -> Answer:
        if self.label:
            return self.label(user)
        windows = [json.loads(line) for line in user.split("\n") if line.startswith('["')]
        tokens = [window[1].strip() for window in windows if window[2] > 0] or ["nothing"]
        word = max(sorted(set(tokens)), key=tokens.count)
        return completion(
            json.dumps(
                {
                    "label": json.dumps(word)
                    if self.rules
                    else f"tokens that read {json.dumps(word)}",
                    "second": "",
                    "kind": "token",
                    "covers": 0.8,
                }
            )
        )

    def _fires(self, label: str, token: str, luck) -> bool:
        return luck.random() < 0.5 if luck.random() < self.noise else token.strip() == label

    def _windows(self, user):
        label = quoted_word(user)
        for number, line in re.findall(
            r"^\[(\d+)(?: \(\d+ tokens\))?: (.*)\]$", user, re.MULTILINE
        ):
            yield number, label, [json.loads(t) for t in QUOTED.findall(line)]

    def _sparse(self, user, luck, _) -> Answer:
        answer = {
            n: [[i, 9] for i, token in enumerate(tokens) if self._fires(label, token, luck)]
            for n, label, tokens in self._windows(user)
        }
        return completion(json.dumps({"sequences": answer}))

    def _digits(self, user, luck, body) -> Answer:
        answer = {
            n: [9 * self._fires(label, token, luck) for token in tokens]
            for n, label, tokens in self._windows(user)
        }
        return spelt(json.dumps(answer), self.logprobs and body.get("logprobs"))

    def _slots(self, messages) -> Answer:
        self.asked["slots"] = self.asked.get("slots", 0) + 1
        label, luck = (
            quoted_word(messages[-2]["content"]),
            random.Random(hashlib.sha256(messages[-1]["content"].encode()).digest()),
        )
        told = [None]
        for message in messages:
            asks = message is messages[-1]
            for line in message["content"].splitlines(keepends=True):
                told += [{c: {"logprob": math.log(0.5), "decoded_token": c}} for c in line]
                if asks and line.endswith("\tunknown\n"):
                    digit = 9 * self._fires(label, json.loads(line.split("\t")[0]), luck)
                    told[-8] |= {
                        "a": {"logprob": math.log(0.3), "decoded_token": str(digit)},
                        "b": {"logprob": math.log(0.1), "decoded_token": "4"},
                    }
        return with_prompt(completion(None, "length"), told)

    def _choice(self, user, luck, _) -> Answer:
        if luck.random() < self.noise:
            return completion(json.dumps({"set": luck.randint(1, 3)}))
        label = quoted_word(user)
        sets = [part.split("\n")[1:] for part in user.split("\nSet ")[1:]]
        counts = [sum(json.loads(text).split().count(label) for text in texts) for texts in sets]
        return completion(json.dumps({"set": 1 + max(range(3), key=counts.__getitem__)}))

    def _texts_rated(self, user, luck, rate) -> Answer:
        label = quoted_word(user)
        lines = re.findall(r"^(\d+): (\".*\")$", user, re.MULTILINE)
        holds = lambda text: (
            luck.random() < 0.5 if luck.random() < self.noise else rate(label, json.loads(text))
        )
        return completion(json.dumps({n: 9 * holds(text) for n, text in lines}))

    def _detection(self, user, luck, _) -> Answer:
        return self._texts_rated(user, luck, lambda label, text: label in text.split())

    def _fuzzing(self, user, luck, _) -> Answer:
        return self._texts_rated(
            user,
            luck,
            lambda label, text: any(
                label in m.split() for m in re.findall("<<(.*?)>>", text, re.DOTALL)
            ),
        )

    def _texts(self, user, luck, _) -> Answer:
        word = quoted_word(user)
        return completion(json.dumps({"texts": [f"a {word} b {word} {i}" for i in range(5)]}))


def quoted_word(user: str) -> str:
    """The token in the quotes of the label that the question is about."""
    label = json.loads(user.split("\n", 1)[0].removeprefix("Label: "))
    return json.loads(QUOTED.search(label)[0])


def with_prompt(answer: Answer, told: list) -> Answer:
    return Answer(json.dumps(json.loads(answer.body) | {"prompt_logprobs": told}))


def spelt(text: str, logprobs) -> Answer:
    """A completion, with one token a character and its log-probabilities where they were asked for:
    8 in 10 on the character, the rest on 0.
    """
    plain = completion(text)
    if not logprobs:
        return plain
    table = json.loads(plain.body)
    tell = lambda c: {
        "token": c, "logprob": math.log(0.8), "top_logprobs": [{"token": c, "logprob": math.log(0.8)}, {"token": "0", "logprob": math.log(0.2)}],
    }  # fmt: skip
    table["choices"][0]["logprobs"] = {"content": [tell(c) for c in text]}
    return Answer(json.dumps(table))
