"""What the report says of clusters and of pairs of features: verdict, proof, names, relations."""

from __future__ import annotations

import numpy as np

from autointerp.clusters.unit import read_levels, read_proof, read_relations
from autointerp.features import Features
from autointerp.titles.unit import read_titles
from figures.markdown import code, table
from figures.text import to_line

MOST_NAMED = 20  # clusters in the table of names
MOST_PAIRS = 4  # pairs of each kind in the table of relations
MEMBERS = 8  # features of a family in the table of names
KINDS = {  # kind of a family -> what it is called in a sentence
    "alternatives": "of alternatives (like contexts, never together)",
    "parts": "of parts of one phrase (next to each other)",
    "synonyms": "of synonyms (on the same tokens)",
}
LABEL = 60  # characters of a label in a table


def clusters_section(features: Features) -> str:
    """The families first: what the null and the subsamples say of them in one sentence, numbers,
    names. Then the regions of the map, with the verdict on them.
    """
    run = features.run
    unit, proof, titles = run.find("cluster"), read_proof(run), run.find("title")
    if not unit or not proof:
        return f"Not clustered yet: `python main.py cluster {run.name}`."
    s = unit.summary
    counts = " > ".join(map(str, s["layers"])) or "No"
    lead = (
        f"### Regions of the map\n\n**{s['verdict']}**\n\n{counts} clusters; {s['noise']} features "
        f"are in none of the finest level, {s['isolated']} stand alone, {s['dead']} are dead, "
        f"{s['duplicates']} pairs are duplicates."
    )
    rows = [*proof_rows(s, proof), *(name_rows(titles.summary) if titles else [])]
    parts = families_parts(features, s)
    parts += [lead, table(["measure", "here", "null or chance"], rows)]
    named = list_named(features)
    if titles:
        parts.append(
            f"{len(named)} of {sum(s['layers'])} clusters, all levels together, come back in "
            "subsamples and share something that can be named; the others have no name."
        )
    if named:
        parts.append(table(["level", "cluster", "title", "features"], named[:MOST_NAMED]))
    return "\n\n".join(parts)


def families_parts(features: Features, s: dict) -> list[str]:
    """What the report says of families; `s` is the summary of `cluster`.

    Nothing where `cluster` was made by a version without families.
    """
    if "families" not in s:
        return []
    if not s["families"]:
        return [f"**{tell_families(s)}**"]
    kinds = ", ".join(f"{n:,} {KINDS[kind]}" for kind, n in s["family_kinds"].items())
    rows = [
        ["families", f"{s['families']:,}", f"{s['families_null']:,} (a Gaussian cloud)"],
        ["cosine distance at which they are cut", f"{s['family_cut']:.2f}", ""],
        ["features in one", f"{s['family_share']:.0%}", ""],
        [
            "come back in subsamples",
            format_tried(s["families_come_back"], ".0%"),
            f"{format_tried(s['families_null_back'], '.0%')} (a random feature and its nearest)",
        ],
        [
            "Jaccard in subsamples",
            format_tried(s["family_jaccard"], ".2f"),
            f"{format_tried(s['family_null_jaccard'], '.2f')} (a random feature and its nearest)",
        ],
        ["kinds, by where members fire", kinds or "none stands out", ""],
    ]
    parts = [f"**{tell_families(s)}**", table(["measure", "here", "null or chance"], rows)]
    named = features.families[features.families["title"].astype(bool)]
    if len(named):
        solid = named.sort_values("solid", ascending=False, kind="stable").head(MOST_NAMED)
        shown = [
            [
                family["family"],
                f"**{to_line(family['title'])}**" if family["solid"] else to_line(family["title"]),
                family["kind"],
                family["size"],
                ", ".join(map(str, features.members(int(family["family"]))[:MEMBERS])),
            ]
            for family in solid.to_dict("records")
        ]
        parts.append(f"{len(named):,} families have a name; bold ones come back in subsamples.")
        parts.append(table(["family", "name", "kind", "size", "members"], shown))
    return parts


def tell_families(s: dict) -> str:
    """One sentence on families: how many, against a cloud without any, and how many come back.

    `s` is the summary of `cluster`; of a version without families, the verdict on the clusters.
    """
    if "families" not in s:
        return str(s["verdict"])
    if not s["families"]:
        return (
            "No families: no set of near directions stands out from a Gaussian cloud of the same "
            "mean and covariance."
        )
    back = ""
    if s["families_come_back"] is not None:
        back = f", and {s['families_come_back']:.0%} of them come back when a fifth of the features"
        back += " is left out"
    return (
        f"{s['families']:,} families of near directions hold {s['family_share']:.0%} of the live "
        f"features where a Gaussian cloud of the same mean and covariance has "
        f"{s['families_null'] or 'none'}{back}."
    )


def list_named(features: Features) -> list[list]:
    """[level, cluster, title, size] of the clusters that have a name, the largest first in each."""
    levels = read_levels(features.run, features.postings.n_features, read_titles(features.run))
    rows: list[list] = []
    for number, level in enumerate(levels):
        clusters, sizes = np.unique(level.cluster[level.cluster >= 0], return_counts=True)
        named = [
            [number, cluster, to_line(level.titles[cluster]), size]
            for cluster, size in zip(clusters.tolist(), sizes.tolist(), strict=True)
            if level.titles.get(cluster)
        ]
        rows += sorted(named, key=lambda row: -row[3])
    return rows


def format_tried(value: float | None, form: str = ".3f") -> str:
    """A number, or that it was not tried."""
    return "not tried" if value is None else format(value, form)


def compare_to_null(measure: dict | None, form: str = ".4f") -> list[str]:
    """[value, its shuffles with z and p]."""
    if measure is None:
        return ["none", ""]
    null = f"{measure['null']:{form}} ± {measure['spread']:{form}}"
    test = f"z {format_tried(measure['z'], '.1f')}, p {measure['p']:.3f}"
    return [format(measure["value"], form), f"{null} ({test})"]


def proof_rows(s: dict, proof: dict) -> list[list[str]]:
    """[measure, here, null or chance] of all that the verdict on the clusters rests on.

    `s` is the summary of `cluster`.
    """
    nulls, levels = s["null_cohesion"], proof["firing"]["layers"]
    clouds = "not tried"
    if nulls:
        clouds = f"{np.mean(nulls):.3f} ± {np.std(nulls):.3f} ({len(nulls)} Gaussian clouds)"
    counts = ", ".join(map(str, s["null_groups"])) or "not tried"
    kept = "clusters that come back in subsamples (Jaccard at least 0.5)"
    ari = f"{format_tried(s['ari_subsamples'])}, {format_tried(s['ari_seeds'])}"
    recall = f"{format_tried(s['recall_space'], '.0%')}, {format_tried(s['recall'], '.0%')}"
    graph = compare_to_null(proof["firing"]["graph"]["ami"], ".3f")
    return [
        ["cohesion of the finest level", format_tried(s["cohesion"]), clouds],
        ["clusters of the finest level", str(s["groups"]), counts],
        [kept, format_tried(s["kept"], ".0%"), ""],
        ["ARI of subsamples, of other seeds", ari, "0"],
        ["15 neighbours kept by the space of the clusters, by the map", recall, ""],
        [
            "firing together within clusters (phi)",
            *compare_to_null(levels[-1] if levels else None),
        ],
        ["tokens in common within clusters", *compare_to_null(proof["tokens"])],
        ["agreement with clusters of the co-activation graph (AMI)", *graph],
    ]


def name_rows(s: dict) -> list[list[str]]:
    """[measure, here, null or chance] of the names; `s` is the summary of `title`."""
    agreement = {name: s[f"agreement_{name}"] for name in ("value", "null", "z", "p")}
    known = agreement["value"] is not None and agreement["z"] not in (None, 0)
    if known:
        agreement["spread"] = (agreement["value"] - agreement["null"]) / agreement["z"]
    rows = [
        [
            f"member told from an outsider of {where} by a family's name",
            tell_share(s, f"family_intruder_{distance}"),
            "50 %",
        ]
        for distance, where in (("near", "the nearest family"), ("far", "a far family"))
    ]
    intruder = tell_share(s, "intruder")
    agreed = compare_to_null(agreement if known else None)
    return [
        *rows,
        ["agreement of labels within clusters", *agreed],
        ["intruder found from a cluster's name and five labels", intruder, "20 %"],
    ]


def tell_share(s: dict, name: str) -> str:
    """A share of the summary with its interval and number of trials, or `none`."""
    if s.get(f"{name}_share") is None:
        return "none"
    span = f"[{s[f'{name}_low']:.0%}, {s[f'{name}_high']:.0%}]"
    return f"{s[f'{name}_share']:.0%} {span} of {s[f'{name}_n']}"


def relations_section(features: Features) -> str:
    """Duplicates, probable splitting and absorption, the first pairs of each."""
    unit, relations = features.run.find("relate"), read_relations(features.run)
    if not unit or not len(relations):
        return ""
    s, rows = unit.summary, []
    for _, pairs in relations.groupby("kind", sort=False):
        for pair in pairs.head(MOST_PAIRS).to_dict("records"):
            feature, other = int(pair["feature"]), int(pair["other"])
            labels = [code(features.label(f)[:LABEL]) for f in (feature, other)]
            strength = f"{pair['strength']:.2f}"
            rows.append([pair["kind"], feature, labels[0], other, labels[1], strength])
    lead = (
        f"{s['duplicate']} near duplicates, {s['splitting']} pairs of probable splitting, "
        f"{s['absorption']} of probable absorption (the first feature by the second)."
    )
    if "within_families" in s:
        lead += f" {s['within_families']} of the pairs lie within a family; they come first."
    header = ["kind", "feature", "label", "other", "label", "strength"]
    title = "### Features that belong together in another sense"
    return f"{title}\n\n{lead}\n\n{table(header, rows)}"
