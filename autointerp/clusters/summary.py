"""Summary of the cluster stage: counts of the finest level, numbers of the proof, printed lines."""

from __future__ import annotations

import numpy as np

from autointerp.clusters.family_table import render_families
from autointerp.clusters.grouping import NeighbourGraph
from autointerp.clusters.tables import take_finest


def summarise(
    graph: NeighbourGraph,
    labels: np.ndarray,
    records: list[dict],
    proof: dict,
    n_duplicates: int,
) -> dict:
    """Counts of the finest level, and the numbers of the proof that a caption needs.

    Those of the families are added by `family_table.summarise_families`.
    """
    finest, n = take_finest(labels), len(labels)
    clustered, last = int((finest >= 0).sum()), len(proof["sizes"]) - 1
    noise = len(graph.inside) - clustered
    cosines = [r["cosine"] for r in records if r["layer"] == last]
    nulls = proof["nulls"]
    return {
        "isolated": n - len(graph.inside),
        "duplicates": n_duplicates,
        "layers": [sum(r["layer"] == level for r in records) for level in range(last + 1)],
        "groups": len(cosines),
        "grouped": clustered,
        "noise": noise,
        "noise_share": round(noise / n, 4),
        "cosine_within": round(float(np.mean(cosines)), 4) if cosines else None,
        "recall": proof["recall_map"],
        "recall_space": proof["recall_space"],
        "cohesion": proof["cohesion"],
        "null_cohesion": [null["cohesion"] for null in nulls],
        "null_groups": [null["groups"][-1] for null in nulls],
        "null_isolated": [null["isolated"] for null in nulls],
        "ari_subsamples": last_field(proof["subsamples"], "ari"),
        "ari_seeds": last_field(proof["seeds"], "ari"),
        "kept": proof["kept"][-1] if proof["kept"] else None,
        "phi_within": last_field(proof["firing"]["layers"], "value"),
        "phi_z": last_field(proof["firing"]["layers"], "z"),
        "phi_p": last_field(proof["firing"]["layers"], "p"),
        "phi_null": last_field(proof["firing"]["layers"], "null"),
        "ami": last_field([proof["firing"]["graph"]["ami"]], "value"),
        "ami_z": last_field([proof["firing"]["graph"]["ami"]], "z"),
        "ami_p": last_field([proof["firing"]["graph"]["ami"]], "p"),
        "verdict_kind": proof["kind"],
        "verdict": proof["verdict"],
    }


def last_field(entries: list[dict | None], field: str) -> float | None:
    """A field of the last entry (the finest level); None where there is none."""
    return entries[-1][field] if entries and entries[-1] else None


def render_summary(s: dict) -> list[str]:
    """The lines that the stage prints at its end."""
    lines = [f"cluster: {s['verdict']}", render_families(s)]
    if not s["groups"]:
        return lines
    null = "not tried"
    if s["null_groups"]:
        null = f"{min(s['null_groups'])} to {max(s['null_groups'])}"
    return [
        *lines,
        f"  levels of {' > '.join(map(str, s['layers']))} clusters, {s['noise']} noise, "
        f"{s['isolated']} isolated; Gaussian clouds: {null} clusters, cut at the same size",
        f"  come back in subsamples {render(s['kept'], '.0%')}; ARI of subsamples "
        f"{render(s['ari_subsamples'])}, of seeds {render(s['ari_seeds'])}",
        f"  neighbours kept: {render(s['recall_space'], '.0%')} by the UMAP space, "
        f"{render(s['recall'], '.0%')} by the map",
        f"  firing together (phi) {render(s['phi_within'], '.4f')} within clusters, "
        f"{render(s['phi_null'], '.4f')} shuffled, z {render(s['phi_z'], '.1f')}, "
        f"p {render(s['phi_p'])}",
        f"  agreement with clusters of the co-activation graph: AMI {render(s['ami'])}, "
        f"z {render(s['ami_z'], '.1f')}, p {render(s['ami_p'])}",
    ]


def render(value: float | None, form: str = ".3f") -> str:
    return "not tried" if value is None else format(value, form)
