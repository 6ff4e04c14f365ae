"""Names of groups without an LLM: what the labels of a group's members say that other labels do not.

A label is read as *marks*: `"if" after "("; digits (weak)` has the marks here "if", kind keywords, after "(" and kind digits. A group's
title is made of marks that its members have and other features have not, ranked by the z-score of the log-odds with an informative prior
(Monroe, Colaresi and Quinn 2008, equations 15 to 22): at most one kind, some terms, and one more mark that says where. A group is also held
against its siblings: the others of the group that it lies in, or of its layer; and its title is not that of a group inside it. Where no mark of the labels stands out, promoted tokens are tried; where none of those does either, the group is
`mixed (number)`. Titles that are nearly equal are told apart by their next marks, and at last by the number of the group.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from autointerp.rules.lexemes import SHAPES
from autointerp.rules.terms import FIELD
from autointerp.settings import TitleSettings

Z = 2.5  # of some hundred marks that a group's members have, one in 160 passes by chance
PRIOR = 10.0  # pseudo-members with the shares of all features
LONGEST = 44  # characters
SHOWN = 10  # marks kept as evidence
MIXED = "mixed"

# Slot -> how its terms stand in a title. In this order.
SLOTS = {
    "kind": "{}", "here": "{}", "after": "after {}", "within": "soon after {}", "before": "before {}", "line": "in {} lines", "call": "in brackets after {}",
    "text": "in texts with {}", "context": "{}", "promotes": "promotes {}",
}  # fmt: skip
LEADS = {
    "after": "after",
    "then": "after",
    "before": "before",
    "in a line starting with": "line",
    "in brackets opened after": "call",
    "in a text with": "text",
}
CONTEXT = re.compile(
    r"(not )?(in a (?:string|docstring|comment|repeated pair)|in brackets(?! opened)|at the start of a line|early in the (?:text|document)|"
    r"repeated|after a space|continuing a word)"
)
LEAD = re.compile(
    r"\b(within \d+ after|in a line starting with|in brackets opened after|in a text with|after|then|before)\b"
)
LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'")

ORDER = lambda m: (m[0][0] == "promotes", -m[2], m[0])  # label marks first, by z
Mark = tuple[str, str]  # (slot, term): ("after", '"("'), ("context", "in a docstring")


@dataclass(frozen=True)
class Title:
    text: str
    marks: tuple[Mark, ...]  # what it is made of; none when mixed


@dataclass(frozen=True)
class Evidence:
    """What a group's title can be made of."""

    ranked: list[tuple[Mark, int, float]]  # (mark, members that have it, z), most telling first
    size: int


def marks_of(
    live: pd.DataFrame, labels: pd.DataFrame, effects: pd.DataFrame, settings: TitleSettings
) -> dict[int, set[Mark]]:
    """The marks of each live feature: of its label, and its promoted tokens."""
    said = dict(zip(labels["feature"], map(read_marks, labels["text"]), strict=True))
    top = zip(effects["feature"], effects["promoted"], strict=True)
    pushed = {
        f: {("promotes", quoted(token)) for token in tokens[: settings.promoted] if token.strip()}
        for f, tokens in top
    }
    return {f: said.get(f, set()) | pushed.get(f, set()) for f in live["feature"]}


def evidence(
    members: dict[int, list[int]], parents: dict[int, list[int]], marks: dict[int, set[Mark]]
) -> dict[int, Evidence]:
    """For each group, its marks ranked against all features and against its siblings: the other members of the group that it lies in, whose features
    `parents` gives, or, where that holds few others, of all groups of the layer.

    The smaller of the two z counts, so that a title says what siblings do not; where nothing stands out from the siblings, z against all.
    """
    everyone, layer = (
        Counter(m for found in marks.values() for m in found),
        [f for part in members.values() for f in part],
    )
    of_layer = Counter(m for f in layer for m in marks[f])
    out = {}
    for group, part in members.items():
        inside = Counter(m for f in part for m in marks[f])
        ranked = rank(inside, len(part), everyone, len(marks))
        above = parents.get(group, [])
        close = len(above) - len(part) >= len(part) / 2
        around, n_around = (
            (Counter(m for f in above for m in marks[f]), len(above))
            if close
            else (of_layer, len(layer))
        )
        if n_around - len(part) >= len(part) / 2:
            near = {mark: z for mark, _, z in rank(inside, len(part), around, n_around)}
            apart = [(mark, n, min(z, near[mark])) for mark, n, z in ranked]
            if any(z >= Z for _, _, z in apart):
                ranked = sorted(apart, key=ORDER)
        out[group] = Evidence(ranked, len(part))
    return out


def group_titles(
    found: dict[int, Evidence], settings: TitleSettings, inside: dict[int, list[str]] | None = None
) -> dict[int, Title]:
    """A title for each group; no two are equal or nearly so, and none is one of those that `inside` gives for the groups inside it."""
    return distinct(
        {g: candidates(e.ranked, e.size, settings) for g, e in found.items()},
        settings.words,
        inside or {},
    )


# ------------------------------------------------------------ labels to marks


def read_marks(label: str) -> set[Mark]:
    """The marks of a rule label; of other text, its quoted terms and comma-separated phrases. Negated contexts are left out."""
    literals: list[str] = []

    def hide(found: re.Match) -> str:
        literals.append(found[0])
        return f"\0{len(literals) - 1}\0"

    masked = LITERAL.sub(hide, label.removeprefix("unclear").removeprefix(":"))
    marks: set[Mark] = set()
    for predicate in masked.split(";"):
        predicate = predicate.replace("(weak)", "")
        marks |= {
            ("context", phrase) for negated, phrase in CONTEXT.findall(predicate) if not negated
        }
        here, *rest = LEAD.split(CONTEXT.sub(" ", predicate))
        for lead, terms in [("", here), *zip(rest[::2], rest[1::2], strict=True)]:
            slot = "within" if lead.startswith("within") else LEADS.get(lead, "here")
            for term in read_terms(terms, literals):
                kinds = kinds_of(term) if slot == "here" else []
                marks |= {("kind", kind) for kind in kinds} | (
                    {(slot, term)} if term[0] in "\"'" or not kinds else set()
                )
    return marks


def kinds_of(term: str) -> list[str]:
    """The shapes, in the plural, of a quoted term, or the one that an unquoted term names; none for other words."""
    if term[0] in "\"'":
        lexeme = ast.literal_eval(term)
        return [
            plural(shape) for shape, has in SHAPES.items() if has(lexeme) and shape != "a word"
        ]  # says less than what else holds
    return [plural(term)] if term in SHAPES else []


def plural(shape: str) -> str:
    """`an operator` -> `operators`; `digits` stays."""
    article, _, rest = shape.partition(" ")
    return rest + "s" if article in ("a", "an") else shape


def read_terms(text: str, literals: list[str]) -> list[str]:
    """Terms in `text`, where a literal stands as its number between NULs; of a field (`words like "items"/"keys"`) the words that name it."""
    words = (part.strip().removeprefix(f"{FIELD} ") for part in re.split(r",|/|\bor\b", text))
    return [
        re.sub(r"\0(\d+)\0", lambda m: literals[int(m[1])], w)
        for w in words
        if w and w != "anything"
    ]


def quoted(token: str) -> str:
    return json.dumps(token.strip(), ensure_ascii=False)


# ------------------------------------------------------------ marks to titles


def rank(
    inside: Counter, n_inside: int, everyone: Counter, n_everyone: int
) -> list[tuple[Mark, int, float]]:
    """(mark, members that have it, z) of a group, most telling first: label marks, then promoted tokens.

    z compares the log-odds that a member has the mark with those of all features outside the group, both with PRIOR pseudo-members
    that have it as often as all features do. All four cells count in its variance: a mark can be common, where Monroe's words are rare.
    """
    found = []
    for mark, n in inside.items():
        prior = (
            PRIOR * (everyone[mark] + 0.5) / (n_everyone + 1)
        )  # never 0 nor all of it, or a cell would be empty
        a, b = n + prior, everyone[mark] - n + prior
        a_not, b_not = n_inside + PRIOR - a, n_everyone - n_inside + PRIOR - b
        z = (np.log(a / a_not) - np.log(b / b_not)) / np.sqrt(1 / a + 1 / a_not + 1 / b + 1 / b_not)
        found.append((mark, n, float(z)))
    return sorted(found, key=ORDER)


def candidates(
    ranked: list[tuple[Mark, int, float]], size: int, settings: TitleSettings
) -> list[Mark]:
    """Marks that may stand in a title: they stand out by Z, and two members have a term, or `min_share` of them any other mark.

    A kind that half of the members have goes first where more have it than have the mark that leads: `operators: "-", "*"` says more
    than `"-", "*", "/"`. Terms of white space are left out: nobody can read them. Nothing is left where the title reaches too few members.
    """
    least = max(2, settings.min_share * size)
    may = [
        mark
        for mark, n, z in ranked
        if z >= Z and n >= (2 if mark[0] == "here" else least) and not blank(mark[1])
    ]
    counts = {mark: n for mark, n, _ in ranked}
    leading = [
        mark
        for mark in may
        if mark[0] == "kind" and counts[mark] >= size / 2 and counts[mark] > counts[may[0]]
    ][:1]
    may = leading + [mark for mark in may if mark not in leading]
    return (
        may
        if sum(counts[mark] for mark in choose(may, settings.words, 0)) >= settings.min_share * size
        else []
    )


def blank(term: str) -> bool:
    return term[0] in "\"'" and not ast.literal_eval(term).strip()


def choose(marks: list[Mark], words: int, skip: int) -> list[Mark]:
    """Up to `words` of the ranked marks that fit together, after the first only from `skip` on."""
    chosen: list[Mark] = []
    for mark in marks[:1] + marks[1 + skip :]:
        if len(chosen) < words and fits(mark, chosen):
            chosen.append(mark)
    return chosen


def fits(mark: Mark, chosen: list[Mark]) -> bool:
    """One kind, which terms may follow that are of it but which follows none; one place; promoted tokens only by themselves; not too long."""
    if not chosen:
        return True
    roles = {role(m) for m in chosen}
    if (role(mark) == "promotes") != ("promotes" in roles) or len(
        phrase([*chosen, mark])
    ) > LONGEST:
        return False
    if role(mark) == "here":
        return all(term in kinds_of(mark[1]) for slot, term in chosen if slot == "kind")
    return role(mark) == "promotes" or (
        role(mark) not in roles and not (role(mark) == "kind" and "here" in roles)
    )


def role(mark: Mark) -> str:
    return mark[0] if mark[0] in ("kind", "here", "promotes") else "place"


def distinct(
    marks: dict[int, list[Mark]], words: int, inside: dict[int, list[str]]
) -> dict[int, Title]:
    """A title for each group, in order of group; one whose title is taken, or nearly so, by a group before it or by one inside it (`inside`) goes on
    to its next marks."""
    taken: list[str] = []
    titles = {}
    for group in sorted(marks):
        options = [choose(marks[group], words, skip) for skip in range(max(1, len(marks[group])))]
        used = taken + inside.get(group, [])
        new = next((o for o in options if o and not any(alike(phrase(o), t) for t in used)), None)
        chosen = options[0] if new is None else new
        text = phrase(chosen) if new else f"{phrase(chosen) or MIXED} ({group})"
        titles[group] = Title(text, tuple(chosen))
        taken.append(text)
    return titles


def alike(a: str, b: str) -> bool:
    """Whether two titles say nearly the same: four of five of their words are common to both, case and order aside."""
    ours, theirs = (set(re.findall(r"\"(?:[^\"\\]|\\.)*\"|[^\s,:;.]+", t.lower())) for t in (a, b))
    return len(ours & theirs) >= 0.8 * max(len(ours | theirs), 1)


def phrase(marks: list[Mark]) -> str:
    """Marks as a person would say them: `operators: "+", "*" after "("`."""
    parts = []
    for slot, form in SLOTS.items():
        if terms := [term for s, term in marks if s == slot]:
            terms = [
                plural(term)[:-1] if slot == "line" and term in SHAPES else term for term in terms
            ]
            parts.append(
                form.format(
                    (", " if slot in ("here", "context", "promotes") else " or ").join(terms)
                )
            )
    kind = bool(marks) and {"kind", "here"} <= {s for s, _ in marks}
    return parts[0] + ": " + " ".join(parts[1:]) if kind else " ".join(parts)
