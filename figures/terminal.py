"""What the verbs print in a terminal: one feature, tables, units, runs, clamps, comparisons.

Lines fit the terminal, from 80 to 200 columns. Colour is used only where standard output is a
terminal. Control characters of a corpus never get through.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from autointerp.card import Card
from autointerp.pipeline import STAGES, brief
from autointerp.rules.language import parts_of
from autointerp.scores.unit import COVERAGE
from autointerp.statistics import MIN_DOCUMENTS
from figures.clamp_lines import clamp_text as clamp_text
from figures.layout import (
    Column,
    fit_text,
    join_fitting,
    lay_table,
    show_snippet,
    sparkline,
    terminal_width,
    use_colour,
    wrap_text,
)
from figures.text import quote, short_label, to_line

NAME = 11  # columns of the names on the left of a feature's lines
TOKENS = 10  # promoted tokens that are shown
FAMILY_MEMBERS = 12  # of the feature's family
PARTNERS = 4
STATES = {
    "absent": "not made",
    "partial": "begun",
    "done": "done",
    "stale": "out of date",
}
STRATA = {  # stratum of a snippet -> a heading
    "top": "the largest activations",
    "q90": "the upper tenth of the activations",
    "q70": "activations between the 70th and the 90th percentile",
    "q40": "activations between the 40th and the 70th percentile",
    "q10": "activations between the 10th and the 40th percentile",
    "q0": "the lowest tenth of the activations",
    "firing": "any firing",
    "near_miss": "silent on a token on which it usually fires",
    "random": "any token",
    "missed": "fires, and the label does not say so",
    "false_alarm": "silent, and the label says that it fires",
}
RELATIONS = {
    "duplicate": "{feature} and {other} are near duplicates",
    "splitting": "{feature} and {other} probably split one feature",
    "absorption": "{other} probably absorbs firings of {feature}",
}
REASONS = {  # kind of an undefined score without a message -> why it has no value
    "too_rare": "it fires in too few test documents",
    "constant": "the label predicts the same everywhere",
    "names_no_token": "the label names no token",
    "no_rivals": "no other feature is near enough to be confused with it",
    "unparsable": "the answers could not be read",
    "misaligned": "the answers did not keep to the text",
}


# ---------------------------------------------------------------- one feature


def feature_text(card: Card) -> str:
    """A feature as `show` prints it."""
    width = terminal_width()
    lines = [
        f"feature {card.feature}   {card.status}   fires on {card.density:.3%} of tokens",
        f"  {card.n_firings:,} firings in {card.n_documents:,} documents, maximum {card.max:.2f}",
    ]
    for label in card.labels:
        lines += label_lines(label, width)
    for note in card.notes:
        lines += named_text("note", f"{to_line(note['text'])}  ({note['time'][:10]})", width)
    lines += family_lines(card, width) + cluster_lines(card, width)
    bars, most = sparkline(card.histogram["counts"]), card.histogram["edges"][-1]
    lines += named_rows("activation", [f"0 {bars} {most:.2f}  (log count)"], width)
    outputs = {"clamped": card.measured, "promoted": card.promoted, "suppressed": card.suppressed}
    for side, tokens in outputs.items():
        if tokens:
            quoted = [quote(token["token"]) for token in tokens[:TOKENS]]
            lines += named_rows(side, [join_fitting(quoted, width - NAME - 2)], width)
    lines += relation_lines(card, width)
    return "\n".join(lines + snippet_lines(card, width))


def label_lines(label: dict[str, Any], width: int) -> list[str]:
    """A label of one set, its first part first, with its confidence and its scores."""
    text, *others = map(to_line, parts_of(label["text"]))
    if label["confidence"] is not None:
        text += f"   (confidence {label['confidence']:.2f}{describe_evidence(label)})"
    scores = [describe_score(score) for score in label["scores"]] or ["not scored"]
    rows = [*(f"also {part}" for part in others), *scores]
    lines = named_text(label["set"], text, width)
    return lines + [line for row in rows for line in named_text("", row, width)]


def describe_evidence(label: dict[str, Any]) -> str:
    n = label["evidence"]
    return f", from {n:,} firing{'s' * (n > 1)}" if n else ""


def describe_coverage(score: dict[str, Any]) -> str:
    """Say how much of a feature's activity a label names, its gain, and what else it predicts."""
    span = "" if score["low"] is None else f" [{score['low']:.0%}, {score['high']:.0%}]"
    null = "" if score["null"] is None else f", another label {score['null']:.0%}"
    about = "names about" if score["estimated"] else "names"
    text = f"{about} {score['value']:.0%}{span} of its activity{null}"
    gains = {name: gain for name, gain in score["gains"].items() if gain is not None}
    if gains:
        text += "; " + ", ".join(f"{gain:+.0%} over the {name}" for name, gain in gains.items())
    if score["precision"] is not None:
        text += f"; {score['precision']:.0%} of what it predicts fires"
    if score["recall_top"] is not None and score["recall_half"] is not None:
        text += (
            f"; of the top tenth of its firings {score['recall_top']:.0%}, of the upper half "
            f"{score['recall_half']:.0%}"
        )
    return text


def describe_score(score: dict[str, Any]) -> str:
    """Say a score with its interval, its null and its documents, or why it has no value."""
    if score["kind"] == COVERAGE and score["value"] is not None:
        return describe_coverage(score)
    if score["value"] is None:
        return f"{score['kind']:17} no value: {describe_undefined(score['undefined'])}"
    text = f"{score['kind']:17} {score['value']:z.2f}"
    if score["low"] is not None:
        text += f" [{score['low']:z.2f}, {score['high']:z.2f}]"
    elif 0 < (score["n_documents"] or 0) < MIN_DOCUMENTS:
        text += f" (an interval needs {MIN_DOCUMENTS} documents)"
    if score["null"] is not None:
        text += f", null {score['null']:z.2f}"
    if score.get("auroc") is not None:
        text += f", area under the ROC curve {score['auroc']:z.2f}"
    if score["n_documents"]:
        text += f", {score['n_documents']} documents"
    return text + describe_strata(score)


def describe_strata(score: dict[str, Any]) -> str:
    """Say a score on the top tenth, the upper half and all of the firings; empty without them."""
    if score.get("all") is None:
        return ""
    parts = []
    for name, what in (("top", "top tenth"), ("half", "upper half"), ("all", "all firings")):
        if (value := score[name]) is None:
            continue
        low, high = score[f"low_{name}"], score[f"high_{name}"]
        parts.append(
            f"{what} {value:z.2f}" + ("" if low is None else f" [{low:z.2f}, {high:z.2f}]")
        )
    return "; " + ", ".join(parts)


def describe_undefined(undefined: str | None) -> str:
    """Say why a score has no value; `undefined` is `kind: message`, or `kind` alone."""
    kind, _, message = (undefined or "unknown").partition(": ")
    return to_line(message) or REASONS.get(kind, kind.replace("_", " "))


def family_lines(card: Card, width: int) -> list[str]:
    """The family of the feature: number, name, kind, and its members; nothing without one."""
    if not card.family:
        return []
    known = card.family
    about = [f"{known['family']} {to_line(known['title']) or '(unnamed)'}", known["kind"]]
    about.append("" if known["solid"] or not known["title"] else "does not come back")
    members = [
        f"{m['feature']:<6} {short_label(m['label'])}"
        for m in known["members"]
        if m["feature"] != card.feature
    ]
    lines = named_text("family", ", ".join(part for part in about if part), width)
    return lines + named_rows("", members[:FAMILY_MEMBERS], width)


def cluster_lines(card: Card, width: int) -> list[str]:
    """The clusters that the feature is in, coarsest first; nothing before `cluster`."""
    if not card.cluster:
        return []
    path = [f"{c['group']} {to_line(c['title']) or '(unnamed)'}" for c in card.groups]
    return named_text("cluster", " > ".join(path) or "none (noise)", width)


def relation_lines(card: Card, width: int) -> list[str]:
    """Nearest directions, features that fire on the same tokens, and probable relations."""
    neighbours = [
        f"{n['feature']:<6} cos {n['cosine']:+.2f}  {short_label(n['label'])}"
        for n in card.neighbours
    ]
    partners = [
        f"{n['feature']:<6} phi {n['phi']:+.2f}  {short_label(n['label'])}"
        for n in card.partners[:PARTNERS]
    ]
    related = [f"{describe_relation(r)}, strength {r['strength']:.2f}" for r in card.related]
    lines = named_rows("neighbours", neighbours, width)
    lines += named_rows("fires with", partners, width)
    return lines + named_rows("related", related, width)


def describe_relation(relation: dict[str, Any]) -> str:
    form = RELATIONS.get(relation["kind"], relation["kind"] + ": {feature} and {other}")
    return form.format(feature=relation["feature"], other=relation["other"])


def snippet_lines(card: Card, width: int) -> list[str]:
    """Snippets under the name of their stratum, each on one line around its peak."""
    lines: list[str] = []
    heading, several = "", len(card.labels) > 1
    for snippet in card.snippets:
        name = str(STRATA.get(snippet["stratum"], snippet["stratum"]))
        if several and snippet.get("set"):
            name += f" ({to_line(snippet['set'])})"
        if name != heading:
            heading = name
            lines.append(f"  -- {heading}")
        lines.append(snippet_line(snippet, card.max, width))
    return lines


def snippet_line(snippet: dict[str, Any], maximum: float, width: int) -> str:
    value = f"  {snippet['activations'][snippet['peak']]:7.2f}  "
    document = fit_text(to_line(Path(str(snippet["document"])).name), width // 4)
    source = f"   [{document}, {snippet['split']}]"
    room = width - len(value) - len(source)
    text = show_snippet(
        snippet["tokens"], snippet["activations"], maximum, snippet["peak"], room, use_colour()
    )
    return value + text + source


def named_text(name: str, text: str, width: int) -> list[str]:
    """Text behind a name, wrapped between words."""
    rows = wrap_text(text, width - NAME - 2)
    return [f"  {to_line(name) if i == 0 else '':{NAME - 1}} {row}" for i, row in enumerate(rows)]


def named_rows(name: str, rows: list[str], width: int) -> list[str]:
    """Rows below each other behind a name, each on one line; nothing without rows."""
    rows = [fit_text(row, width - NAME - 2) for row in rows]
    return [f"  {name if i == 0 else '':{NAME - 1}} {row}" for i, row in enumerate(rows)]


def pair_text(pair: dict[str, Any]) -> str:
    """Two features: their labels, how often they fire on the same token, phi and cosine."""
    lines = [f"{pair[side]} {short_label(pair['labels'][side])}".rstrip() for side in ("a", "b")]
    shares = f"{pair['of_a']:.1%} and {pair['of_b']:.1%} of their firings"
    lines += [
        f"They fire on {pair['n_a']:,} and {pair['n_b']:,} of {pair['n']:,} tokens,",
        f"together on {pair['n_ab']:,}: {shares}.",
        f"phi {pair['phi']:.4f}, cosine {pair['cosine']:.4f}",
    ]
    lines += [f"{describe_relation(r)}, strength {r['strength']:.2f}" for r in pair["related"]]
    return "\n".join(line for text in lines for line in wrap_text(text, terminal_width()))


# ---------------------------------------------------------------- tables


def table_text(rows: list[dict[str, Any]], columns: Sequence[str], limit: int = 40) -> str:
    """Rows under a header, numbers short; says how many rows were left out."""
    shown = [[format_cell(row[name]) for name in columns] for row in rows[:limit]]
    numbers = [all(not isinstance(row[name], str) for row in rows[:limit]) for name in columns]
    made = [
        Column(name, right=number, flexible=not number)
        for name, number in zip(columns, numbers, strict=True)
    ]
    lines = [lay_table(made, shown, terminal_width())]
    if len(rows) > limit:
        lines.append(f"... and {len(rows) - limit} more (--limit, or --json for all)")
    return "\n".join(lines)


def format_cell(value: Any) -> str:
    """A value as a table shows it; - for none."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.2f}"
    return to_line(str(value))


def runs_text(rows: list[dict[str, Any]]) -> str:
    """Every run: its subject and site, its size on disk, when it changed last, what to type next.

    `rows` have run, subject, site, bytes, made (seconds since 1970) and next.
    """
    if not rows:
        return "There are no runs yet. Make one: python main.py demo"
    columns = [Column("run"), Column("subject", flexible=True), Column("site")]
    columns += [Column("size", right=True), Column("changed"), Column("next")]
    cells = []
    for row in rows:
        changed = f"{datetime.fromtimestamp(row['made']):%Y-%m-%d}" if row["made"] else "-"
        subject = to_line(Path(row["subject"]).name)
        about = [to_line(row["run"]), subject, to_line(row["site"])]
        cells.append([*about, decimal(row["bytes"]), changed, to_line(row["next"])])
    return lay_table(columns, cells, terminal_width())


def units_text(units: list[dict[str, Any]]) -> str:
    """Every unit of a run on one line: whether it is made, how long that took, its key figures.

    `units` have stage, state, summary and seconds.
    """
    columns = [Column("unit"), Column("state"), Column("time", right=True)]
    columns.append(Column("key figures", flexible=True))
    cells = []
    for unit in units:
        stage = STAGES.get(unit["stage"].split("/")[0])
        figures = brief(stage, unit["summary"]) if stage and unit["summary"] else ""
        time = "" if unit["seconds"] is None else format_seconds(unit["seconds"])
        state = STATES.get(unit["state"], unit["state"])
        cells.append([unit["stage"], state, time, to_line(figures)])
    return lay_table(columns, cells, terminal_width())


def format_seconds(seconds: float) -> str:
    """A duration: 12 s, 3:20 min, 1:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02} h"


# ---------------------------------------------------------------- a text


def reading_text(
    tokens: list[str], firings: list[dict[str, Any]], maxima: dict[int, float], limit: int
) -> str:
    """The features that fire on a text, the strongest first, each with its tokens shaded.

    Strength is the largest activation as a share of the feature's own maximum. `firings` have
    position, feature, activation and label.
    """
    by_feature: dict[int, list[float]] = {}
    labels: dict[int, str] = {}
    for f in firings:
        by_feature.setdefault(f["feature"], [0.0] * len(tokens))[f["position"]] = f["activation"]
        labels[f["feature"]] = f["label"]
    if not by_feature:
        return "No feature fires on it."

    def share(feature: int) -> float:
        return max(by_feature[feature]) / (maxima[feature] or 1.0)

    width, colour = terminal_width(), use_colour()
    ordered = sorted(by_feature, key=share, reverse=True)
    lines = ["feature  of its max  text, and label"]
    for feature in ordered[:limit]:
        values = by_feature[feature]
        peak = max(range(len(values)), key=values.__getitem__)
        text = show_snippet(tokens, values, maxima[feature], peak, width - 21, colour)
        lines.append(f"{feature:7}  {share(feature):10.0%}  {text}")
        lines.append(f"{'':21}{fit_text(short_label(labels[feature]), width - 21)}".rstrip())
    if len(ordered) > limit:
        lines.append(f"... and {len(ordered) - limit} more (--limit, or --json for all)")
    return "\n".join(lines)


# ---------------------------------------------------------------- two runs


def compare_text(own: str, other: str, summary: dict[str, Any]) -> str:
    """How well two runs' features match, both ways and beside chance, and each SAE on each text."""
    close = f"{summary['close_at']:g}"
    sentences = []
    for side, a, b in (("there", own, other), ("here", other, own)):
        match, null = summary[side], summary[side]["null"]
        sentences.append(
            f"{a} in {b}: the mean best cosine is {match['mean']:.3f} (random directions of like "
            f"covariance {null['mean']:.3f}); {match['close']:.0%} of {match['n']:,} features have "
            f"one of at least {close} (random {null['close']:.0%})."
        )
    for side, a, b in (("here", own, other), ("there", other, own)):
        fidelity = summary["fidelity"][side]
        sentences.append(
            f"On the held-out text of {a} the FVU is {fidelity['own']['fvu']:.3f} with its own "
            f"autoencoder and {fidelity['guest']['fvu']:.3f} with that of {b}."
        )
    return "\n".join(row for text in sentences for row in wrap_text(text, terminal_width()))


def families_text(own: str, other: str, found: dict[str, Any]) -> str:
    """How many families of each run are found in the other, beside sets of random neighbours."""
    lines = []
    for side, a, b in (("there", own, other), ("here", other, own)):
        match, null = found[side], found[side]["null"]
        lines += wrap_text(
            f"{match['close']:.0%} of the {match['n']:,} families of {a} are found in {b} (cosine "
            f"of the means at least {found['close_at']:g}; mean {match['mean']:.2f}); "
            f"{null['close']:.0%} of them in as many sets of a random feature and its nearest "
            f"(mean {null['mean']:.2f}).",
            terminal_width(),
        )
    return "\n".join(lines)
