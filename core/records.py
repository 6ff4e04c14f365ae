"""Frozen record types with units, and the letters that shapes are written in.

    D  width of the site          F  features of the SAE       V  vocabulary of the subject
    n  kept tokens of a corpus    R  rows of a batch           T  positions of a row
    B  vectors of a batch         S  tokens of a snippet

Directions are rows (F, D). An activation is in the SAE's own units on raw activations of the subject. A *position* counts the
kept tokens of one document from 0; an *ordinal* counts those of the whole capture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.errors import UsageError

NAMED_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "attn_z", "mlp_out")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Site:
    """A place in the subject: a named site of one layer, or the input or output of a module given by its path.

    Its text form is canonical: `resid_post.3`, `attn_z.0`, `transformer.h.3.mlp.output`.
    """

    kind: str  # one of NAMED_SITES, or "input" / "output" of `module`
    layer: int | None = None
    module: str | None = None

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that `text` names; raises UsageError when it has neither form."""
        if named := re.fullmatch(rf"({'|'.join(NAMED_SITES)})\.(\d+)", text):
            return cls(named[1], layer=int(named[2]))
        if path := re.fullmatch(r"([A-Za-z_][\w.]*)\.(input|output)", text):
            return cls(path[2], module=path[1])
        raise UsageError(
            f"{text!r} is not a site.",
            f"Use {', '.join(NAMED_SITES)} and a layer, such as resid_post.3, or a module path and .input or .output.",
        )

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}" if self.module is None else f"{self.module}.{self.kind}"


@dataclass(frozen=True)
class Snippet:
    """A window of one document around one token, with a feature's activation on each token.

    `weight` is the share of the feature's firings that the snippet's stratum stands for, divided by the snippets drawn from it.
    """

    feature: int
    document: int
    start: int  # position of the first token in its document
    peak: int  # index of the token the window was chosen for, within the snippet
    tokens: tuple[str, ...]  # (S,) text of each token
    activations: tuple[float, ...]  # (S,) SAE units
    stratum: str  # top, q90, q70, q40, q10, q0, firing, near_miss, random
    split: str
    weight: float


@dataclass(frozen=True)
class FeatureStats:
    """What the index and the effects say about one feature."""

    feature: int
    status: (
        str  # alive, rare (fires in fewer than 5 test documents), dense (over 10 % of tokens), dead
    )
    density: float  # share of kept tokens on which it fires
    n_firings: int
    n_documents: int
    max: float  # SAE units


@dataclass(frozen=True)
class Label:
    """What one labeller says a feature means. `text` is 1 to 200 characters and is all that a simulation sees."""

    feature: int
    set: str
    text: str
    confidence: float  # 0..1, the labeller's own
    kind: str = ""  # for rules: token, n-gram, context, ...
    reply_key: str = ""  # of the reply it was read from, when an LLM gave it
    evidence: int = (
        0  # firings in the train split that its labeller could draw on; 0 where that is not known
    )


@dataclass(frozen=True)
class Score:
    """How well a label predicts a feature on documents that its labeller never saw.

    `value` is None when it is undefined, and then `undefined` says why. `low` and `high` bound a 95 % interval over documents; both
    are None when too few documents carry one. `null` is the same measure for another feature's label on the same tokens.
    """

    feature: int
    set: str
    kind: str
    value: float | None
    undefined: str
    low: float | None
    high: float | None
    null: float | None
    n_tokens: int
    n_documents: int


@dataclass(frozen=True)
class Failure:
    """Something that was tried and gave no value. Never a number, never a missing row."""

    stage: str
    feature: int
    kind: str  # too_rare, refused, truncated, unparsable, misaligned, provider, budget
    message: str
    reply_key: str = ""


@dataclass(frozen=True)
class Clamp:
    """An edit of one feature. `value` is in SAE units, or a multiple of the feature's maximum when `relative`."""

    feature: int
    mode: str  # set, max, add, scale, ablate
    value: float
    relative: bool = False

    MODES = ("set", "max", "add", "scale", "ablate")

    @classmethod
    def parse(cls, mode: str, text: str) -> Clamp:
        """`1234=5x` (five times the feature's maximum), `1234=3.5` (SAE units); for ablate only `1234`."""
        found = re.fullmatch(r"(\d+)(?:=(-?\d+(?:\.\d+)?)(x?))?", text.strip())
        if mode not in cls.MODES or not found or (found[2] is None) != (mode == "ablate"):
            raise UsageError(
                f"--{mode} {text!r} is not a clamp.",
                "Use --set 1234=5x (five times its maximum), --add 1234=2.0, or --ablate 1234.",
            )
        return cls(int(found[1]), mode, float(found[2] or 0.0), bool(found[3]))

    def __str__(self) -> str:
        return f"{self.mode} {self.feature}" + (
            "" if self.mode == "ablate" else f"={self.value:g}{'x' if self.relative else ''}"
        )


@dataclass(frozen=True)
class Manifest:
    """What a committed unit is: written last, so that a unit without one does not exist."""

    unit: str
    version: int  # of the stage's code; a change of meaning raises it
    key: str  # SHA-256 over unit, version, settings and the inputs' keys
    settings: dict
    inputs: dict[str, str]  # unit -> key
    files: dict[str, dict]  # name -> {bytes, sha256}
    summary: dict
    packages: dict[str, str]
    seconds: float
