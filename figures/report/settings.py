"""The settings of the report, in the standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from core.settings import setting


@dataclass(frozen=True)
class ReportSettings:
    """report: everything that is committed -> report.md and its figures."""

    control: str = setting(
        "",
        "runs whose scores are shown beside these, with commas: untrained subjects, untrained directions",
    )
    features: str = setting(
        "", "features shown in full: 1,2,5-9; nothing takes some with high, middling and low scores"
    )
    compare: str = setting(
        "", "other runs on the same site and text, for the figure of L0 and FVU: a,b"
    )
    readme: str = setting(
        "",
        "also write the figures, and Markdown that a readme can include, into this folder",
        in_key=False,
    )
