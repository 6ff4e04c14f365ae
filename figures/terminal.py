"""A feature, a table, a clamp in the terminal. Colour only where standard output is a terminal; control characters never get through."""

from __future__ import annotations

import os
import sys

from figures.text import quoted, useful_text, visible

RAMP = (230, 222, 214, 208, 202)  # 256-colour backgrounds, pale yellow to orange
BARS = " ▁▂▃▄▅▆▇█"


def coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def highlighted(
    tokens: list[str], activations: list[float], top: float, peak: int, colour: bool
) -> str:
    """Tokens on one line, shaded by activation / `top`; without colour, tokens over half of the top stand in «», the peak in «« »»."""
    out = []
    for i, (token, activation) in enumerate(zip(tokens, activations, strict=True)):
        text, share = visible(token), activation / top if top > 0 else 0.0
        if colour and share > 0:
            shade = RAMP[min(len(RAMP) - 1, int(share * len(RAMP)))]
            out.append(f"\x1b[48;5;{shade}m\x1b[38;5;16m{text}\x1b[0m")
        elif not colour and activation > 0 and i == peak:
            out.append(f"««{text}»»")
        elif not colour and share > 0.5:
            out.append(f"«{text}»")
        else:
            out.append(text)
    return "".join(out)


def sparkline(counts) -> str:
    """Counts as bars on a logarithmic scale; an empty bin is a blank."""
    import numpy as np

    heights = np.log1p(np.asarray(counts, dtype=float))
    top = heights.max() or 1.0
    return "".join(
        BARS[0] if h == 0 else BARS[max(1, round(h / top * (len(BARS) - 1)))] for h in heights
    )


def score_text(score: dict) -> str:
    if score["value"] is None:
        return f"{score['kind']} undefined: {score['undefined']}"
    span = f" [{score['low']:.2f}, {score['high']:.2f}]" if score["low"] is not None else ""
    null = f", null {score['null']:.2f}" if score["null"] is not None else ""
    area = f", area under the curve {score['auroc']:.2f}" if score.get("auroc") is not None else ""
    return f"{score['kind']:17} {score['value']:.2f}{span}{null}{area}" + (
        f", {score['n_documents']} documents" if score["n_documents"] else ""
    )


def list_rows(name: str, rows: list[str]) -> list[str]:
    """Rows under one another, the first behind the name; nothing without rows."""
    return [f"  {name if i == 0 else '':10} {row}" for i, row in enumerate(rows)]


def group_lines(card: dict) -> list[str]:
    """The groups that the feature is in, coarsest first; that it is in none, where there are groups."""
    if not card["cluster"]:
        return []
    path = [f"{g['group']} {visible(g['title']) or '(unnamed)'}" for g in card["groups"]]
    return list_rows("group", [" > ".join(path) or "none (noise)"])


def evidence_text(label: dict) -> str:
    return (
        f", from {label['evidence']:,} firing{'s' * (label['evidence'] > 1)}"
        if label["evidence"]
        else ""
    )


def feature_text(card: dict, histogram) -> str:
    """A feature's card as `show` prints it."""
    colour = coloured()
    counts, edges = histogram
    lines = [
        f"feature {card['feature']}   {card['status']}   fires on {card['density']:.3%} of tokens   {card['n_firings']:,} firings in {card['n_documents']} documents   max {card['max']:.2f}"
    ]
    for label in card["labels"]:
        scores = [score_text(s) for s in label["scores"]] or ["not scored"]
        confidence = (
            ""
            if label["confidence"] is None
            else f"   (confidence {label['confidence']:.2f}{evidence_text(label)})"
        )
        lines += [
            f"  {label['set']:10} {visible(label['text'])}{confidence}",
            *(f"  {'':10} {score}" for score in scores),
        ]
    lines += [f"  note       {visible(n['text'])}  ({n['time'][:10]})" for n in card["notes"]]
    lines += group_lines(card)
    lines.append(f"  activation 0 {sparkline(counts)} {edges[-1]:.2f}  (log count)")
    for side in ("promoted", "suppressed"):
        if card[side]:
            lines.append(f"  {side:10} " + " ".join(quoted(t["token"]) for t in card[side][:10]))
    lines += list_rows(
        "neighbours",
        [
            f"{n['feature']:<6} cos {n['cosine']:+.2f}  {visible(n['label'])}"
            for n in card["neighbours"]
        ],
    )
    lines += list_rows(
        "fires with",
        [
            f"{n['feature']:<6} phi {n['phi']:+.2f}  {visible(n['label'])}"
            for n in card["partners"][:4]
        ],
    )
    lines += list_rows(
        "related",
        [
            f"{r['kind']}: {r['feature']} and {r['other']}, strength {r['strength']:.2f}"
            for r in card["related"]
        ],
    )
    stratum = None
    for s in card["snippets"]:
        whose = s.get("set", "") if len(card["labels"]) > 1 else ""
        if (s["stratum"], whose) != stratum:
            stratum = s["stratum"], whose
            lines.append(f"  -- {s['stratum']}" + (f" ({visible(whose)})" if whose else ""))
        value = s["activations"][s["peak"]]
        lines.append(
            f"  {value:7.2f}  {highlighted(s['tokens'], s['activations'], card['max'], s['peak'], colour)}   [{s['document']}, {s['split']}]"
        )
    return "\n".join(lines)


def table_text(rows: list[dict], columns: list[str], limit: int = 40) -> str:
    """Rows under a header, numbers short; says how many were left out."""

    def cell(value) -> str:
        if value is None or value != value:
            return "-"
        if isinstance(value, float):
            return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.2f}"
        return visible(str(value))[:90]

    shown = [[cell(row[c]) for c in columns] for row in rows[:limit]]
    widths = [max([len(c), *(len(r[i]) for r in shown)]) for i, c in enumerate(columns)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip()]
    lines += ["  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)).rstrip() for r in shown]
    if len(rows) > limit:
        lines.append(f"... and {len(rows) - limit} more (--limit, or --json for all)")
    return "\n".join(lines)


def reading_text(
    tokens: list[str], firings: list[dict], maxima: dict[int, float], limit: int
) -> str:
    """The features that fire on a text, strongest (as a share of their own maximum) first, each with its tokens shaded."""
    by_feature: dict[int, list[float]] = {}
    labels = {}
    for f in firings:
        by_feature.setdefault(f["feature"], [0.0] * len(tokens))[f["position"]] = f["activation"]
        labels[f["feature"]] = f["label"]
    share = lambda feature: max(by_feature[feature]) / (maxima[feature] or 1.0)
    ordered = sorted(by_feature, key=share, reverse=True)
    colour = coloured()
    lines = ["feature  of its max  text, and label"]
    for feature in ordered[:limit]:
        values = by_feature[feature]
        shown = highlighted(
            tokens, values, maxima[feature], max(range(len(values)), key=values.__getitem__), colour
        )
        lines += [
            f"{feature:7}  {share(feature):10.0%}  {shown}",
            f"{'':21}{visible(labels[feature])}",
        ]
    if len(ordered) > limit:
        lines.append(f"... and {len(ordered) - limit} more (--limit, or --json for all)")
    return "\n".join(lines)


DOSE_COLUMNS = (("target", "own tokens, nats", "+.2f"), ("own", "written, share", ".2f"), ("found", "found, of max", ".2f"), ("kl", "KL, nats/token", ".3f"),
                ("loss", "neutral loss", "+.3f"), ("perplexity", "perplexity", ".1f"), ("distinct", "distinct pairs", ".2f"))  # fmt: skip


def dose_lines(record: dict) -> list[str]:
    """A table of doses: each measure of the clamp, and of a random direction of equal length in brackets; then the useful dose."""
    number = lambda value, form: "-" if value is None else format(value, form)
    lines = ["", "    dose" + "".join(f"{name:>24}" for _, name, _ in DOSE_COLUMNS)]
    for d in record["doses"]:
        lines.append(
            f"   {d['dose']:4g}x"
            + "".join(
                f"{number(d[key], form) + ' (' + number(d['random_' + key], form) + ')':>24}"
                for key, _, form in DOSE_COLUMNS
            )
        )
    lines.append("   in brackets: a random direction of equal length")
    for entry, key, what in (
        ("useful", "own", "of the tokens written are its own"),
        ("useful_found", "found", "of its maximum is found again"),
    ):
        if entry in record:
            lines.append("   " + useful_text(record[entry], key, what))
    return lines


def clamp_text(record: dict) -> str:
    """Baseline and clamped continuations, one above the other, under each prompt; then the doses."""
    lines = [
        f"{clamp}   {visible(record['labels'].get(str(f), ''))}"
        for clamp, f in zip(record["clamps"], record["features"], strict=True)
    ]
    lines += [
        f"{clamp['mode']} {clamp['feature']}={clamp['value']:.4g}   in run {other['run']}"
        for other in record.get("also", ())
        for clamp in other["clamps"]
    ]
    for prompt, seed, baseline, clamped in zip(
        record["prompts"], record["seeds"], record["baseline"], record["clamped"], strict=True
    ):
        lines += [
            f"-- {visible(prompt)}   (seed {seed})",
            f"   baseline  {visible(baseline)}",
            f"   clamped   {visible(clamped)}",
        ]
    if "doses" in record:
        lines += dose_lines(record)
    return "\n".join(lines)


def pair_text(found: dict) -> str:
    """Two features: their labels, how often they fire on the same token, phi and cosine."""
    lines = [f"{found[side]} {visible(found['labels'][side])}".rstrip() for side in ("a", "b")]
    shares = f"{found['of_a']:.1%} and {found['of_b']:.1%} of their firings"
    lines.append(
        f"fire on {found['n_a']:,} and {found['n_b']:,} of {found['n']:,} tokens, together on {found['n_ab']:,}: {shares}"
    )
    lines.append(
        f"phi {found['phi']:.4f}, cosine {found['cosine']:.4f}"
        + "".join(f"; probable {r['kind']} {r['strength']:.2f}" for r in found["related"])
    )
    return "\n".join(lines)


def compare_text(own: str, other: str, found: dict) -> str:
    """Best matches of two runs' features both ways beside chance, and each autoencoder on the other's text."""
    lines = []
    for side, a, b in (("there", own, other), ("here", other, own)):
        m = found[side]
        lines.append(
            f"{a} in {b}: mean best cosine {m['mean']:.3f} (random directions of like covariance {m['null']['mean']:.3f}); "
            f"{m['close']:.0%} of {m['n']:,} features have one of at least {found['close_at']:g} ({m['null']['close']:.0%})"
        )
    for side, a, b in (("here", own, other), ("there", other, own)):
        f = found["fidelity"][side]
        lines.append(
            f"on the held-out text of {a}: FVU {f['own']['fvu']:.3f} with its own autoencoder, {f['guest']['fvu']:.3f} with that of {b}"
        )
    return "\n".join(lines)
