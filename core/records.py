"""Frozen record types with their units, and the letters in which shapes are written.

    D  numbers in one activation vector: the width of the subject at the site
    F  features of the SAE
    V  tokens in the subject's vocabulary
    n  tokens that a capture keeps, over all documents
    m  firings of one feature, or another count that the docstring names
    R  rows of a batch (a row holds tokens of one document)
    T  positions of a row
    B  activation vectors of a batch
    S  tokens of a snippet
    k  neighbours of a feature, or active features of a token in a TopK SAE

Directions are rows: (F, D). An activation is in the SAE's own units, computed from the subject's
raw activations. A *position* counts the kept tokens of one document from 0; an *ordinal* counts the
kept tokens of the whole capture from 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from core.errors import UsageError

NAMED_SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "attn_z",
    "mlp_in",
    "mlp_out",
    "neurons",
)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Site:
    """A place in the subject where activations are read or changed.

    It is a named site of one layer, or the input or output of the module at a path. Each site has
    one text form: `resid_post.3`, `attn_z.0`, `transformer.h.3.mlp.output`.
    """

    kind: str  # one of NAMED_SITES, or "input" / "output" of `module`
    layer: int | None = None
    module: str | None = None

    @classmethod
    def parse(cls, text: str) -> Site:
        """Return the site that `text` names; raises UsageError when it has neither form."""
        if named := re.fullmatch(rf"({'|'.join(NAMED_SITES)})\.(\d+)", text):
            return cls(named[1], layer=int(named[2]))
        if path := re.fullmatch(r"([A-Za-z_][\w.]*)\.(input|output)", text):
            return cls(path[2], module=path[1])
        raise UsageError(
            f"{text!r} is not a site.",
            f"Use {', '.join(NAMED_SITES)} and a layer, such as resid_post.3, "
            "or a module path and .input or .output.",
        )

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}" if self.module is None else f"{self.module}.{self.kind}"


@dataclass(frozen=True)
class Snippet:
    """A window of one document around one token, with a feature's activation on each token.

    `weight` is the share of the feature's firings that lie in the snippet's stratum, divided by the
    number of snippets that were drawn from the stratum; 0 for strata that stand for no share.
    """

    feature: int
    document: int
    start: int  # position of the first token in its document
    peak: int  # index, within the snippet, of the token for which the window was chosen
    tokens: tuple[str, ...]  # (S,) text of each token
    activations: tuple[float, ...]  # (S,) SAE units
    stratum: str  # top, q90, q70, q40, q10, q0, firing, near_miss, random, missed, false_alarm
    split: str  # train, val, test
    weight: float


@dataclass(frozen=True)
class FeatureStats:
    """How often and how strongly one feature fires in the captured text."""

    feature: int
    status: str  # alive, rare (under 5 test documents), dense (over 10 % of tokens), dead
    density: float  # share of kept tokens on which it fires
    n_firings: int
    n_documents: int  # documents in which it fires
    max: float  # largest activation, SAE units


@dataclass(frozen=True)
class Label:
    """What one labeller says that a feature means.

    `text` has 1 to 200 characters; a simulation sees the text and nothing else of the label. Tables
    and JSON call `label_set` "set".
    """

    feature: int
    label_set: str  # rules, hand, llm-<model>, or the name of an imported set
    text: str
    confidence: float  # 0 to 1, as the labeller states it
    kind: str = ""  # for rules: token, n-gram, context, ...
    reply_key: str = ""  # of the LLM's reply that the label was read from
    evidence: int = 0  # train firings from which the labeller could draw; 0 where unknown


@dataclass(frozen=True)
class Undefined:
    """Why a score has no value: the kind of the reason in one word, and the reason in a sentence.

    The text form, which tables and JSON hold, is `kind: message`, or `kind` without a message.
    """

    kind: str  # too_rare, constant, names_no_token, no_rivals, unparsable, misaligned, ...
    message: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind

    @classmethod
    def parse(cls, text: str) -> Undefined | None:
        """Return the reason that `text` states, or None for an empty text."""
        kind, _, message = text.partition(": ")
        return cls(kind, message) if text else None


@dataclass(frozen=True)
class Score:
    """How well a label predicts a feature on documents that its labeller never saw.

    Exactly one of `value` and `undefined` is None. `low` and `high` bound a 95 % interval over
    documents; both are None when too few documents carry one. `null` is the same measure for
    another feature's label on the same tokens; None when there is no such label. Tables and JSON
    call `label_set` "set".
    """

    feature: int
    label_set: str
    kind: str  # simulation, detection, fuzzing, effect, ...
    value: float | None
    undefined: Undefined | None
    low: float | None
    high: float | None
    null: float | None
    n_tokens: int  # tokens on which the label was tried
    n_documents: int  # documents, among those tokens, in which the feature fires


@dataclass(frozen=True)
class Failure:
    """An attempt to label or score a feature that gave no value. A failure is never a number."""

    stage: str
    feature: int
    kind: str  # too_rare, refused, truncated, unparsable, misaligned, provider, budget, ...
    message: str
    reply_key: str = ""


@dataclass(frozen=True)
class Clamp:
    """An edit of one feature's activation.

    `value` is in SAE units, or, when `relative`, a multiple of the feature's largest activation.
    """

    feature: int
    mode: str  # set, max, add, scale, ablate
    value: float
    relative: bool = False

    MODES: ClassVar = ("set", "max", "add", "scale", "ablate")

    @classmethod
    def parse(cls, mode: str, text: str) -> Clamp:
        """Return the clamp that `text` states: `1234=5x` (five times the feature's maximum),
        `1234=3.5` (SAE units), or `1234` for ablate. Raises UsageError for another form.
        """
        parts = re.fullmatch(r"(\d+)(?:=(-?\d+(?:\.\d+)?)(x?))?", text.strip())
        if mode not in cls.MODES or not parts or (parts[2] is None) != (mode == "ablate"):
            raise UsageError(
                f"--{mode} {text!r} is not a clamp.",
                "Use --set 1234=5x (five times its maximum), --add 1234=2.0, or --ablate 1234.",
            )
        return cls(int(parts[1]), mode, float(parts[2] or 0.0), bool(parts[3]))

    def __str__(self) -> str:
        return f"{self.mode} {self.feature}" + (
            "" if self.mode == "ablate" else f"={self.value:g}{'x' if self.relative else ''}"
        )


@dataclass(frozen=True)
class Manifest:
    """The record of a committed unit. It is written last: a unit without one does not exist."""

    unit: str
    version: int  # of the stage's code; raised when the meaning of the files changes
    key: str  # SHA-256 over unit, version, settings and the inputs' keys
    settings: dict[str, Any]
    inputs: dict[str, str]  # unit -> key
    files: dict[str, dict[str, Any]]  # name -> {bytes, sha256}
    summary: dict[str, Any]  # key figures
    packages: dict[str, str]  # name -> version
    seconds: float  # wall time
