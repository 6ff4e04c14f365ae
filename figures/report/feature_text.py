"""What the report says of single features."""

from __future__ import annotations

import numpy as np

from autointerp.features import Features
from autointerp.rules.language import parts_of
from autointerp.scores.unit import COVERAGE
from autointerp.settings import parse_features
from figures.markdown import code, mark_peak
from figures.terminal import describe_coverage

SNIPPETS = {"top": 4, "strata": 1}  # of each stratum, for each feature
QUANTILES = (0.98, 0.9, 0.75, 0.5, 0.25, 0.05)  # of the scores, whose features are shown


def features_section(features: Features, asked: str) -> str:
    """The features that `asked` (1,2,5-9) names, or some with high, middling and low scores."""
    chosen = choose_features(features, asked)
    return "\n\n".join(describe_feature(features, feature) for feature in chosen)


def choose_features(features: Features, asked: str) -> list[int]:
    """Choose those asked for, or some from the top, the middle and the bottom of the scores."""
    overview = features.overview()
    if asked:
        return parse_features(asked, overview["feature"])
    scored = overview[overview["score"].notna()].sort_values("score", kind="stable")
    if not len(scored):
        return [int(f) for f in np.flatnonzero(features.postings.n_firings > 0)[:3]]
    ordered = scored["feature"].tolist()
    return [int(ordered[int(q * (len(ordered) - 1))]) for q in QUANTILES]


def describe_feature(features: Features, feature: int) -> str:
    """Labels with their scores, density, promoted tokens, and snippets of one feature."""
    card = features.card(feature, SNIPPETS)
    lines = [f"### Feature {feature}"]
    for label in card.labels:
        scored = {s["kind"]: s for s in label["scores"] if s["value"] is not None}
        parts = [describe_coverage(scored[COVERAGE])] if COVERAGE in scored else []
        other = next((s for kind, s in scored.items() if kind != COVERAGE), None)
        if other and other["null"] is not None:
            parts.append(f"{other['kind']} {other['value']:.2f}, null {other['null']:.2f}")
        said = "; ".join(parts) or "no score"
        first, *others = parts_of(label["text"])
        also = f", also {' '.join(map(code, others))}" if others else ""
        lines.append(f"**{label['set']}**: {code(first)}{also} ({said})")
    promoted = " ".join(code(t["token"]) for t in card.promoted[:6])
    density = f"fires on {card.density:.3%} of tokens"
    lines.append(f"{density}; promotes {promoted}" if promoted else density)
    lines.append("\n".join(f"- {s['stratum']}: {mark_peak(s)}" for s in card.snippets))
    return "\n\n".join(lines)
