"""Stage `report`: everything that is committed -> report.md and its figures, light and dark.

Every number is read from a manifest or a table of the run, none is typed. What has not been made is said to be missing.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from autointerp.features import Features
from autointerp.selection import parse_features
from core.files import read_json, read_lines, replacing
from core.progress import progress
from core.records import Manifest
from core.run import Run
from figures import scores as score_figures
from figures import training as training_figures
from figures.clusters import group_figure
from figures.map import Caption, cluster_map
from figures.settings import ReportSettings
from figures.steering import dose_curves, dose_title
from figures.style import save
from figures.terminal import visible

UNIT, VERSION = "report", 1
NEEDED = ["capture", "train", "index"]
SCORES = [f"score/rules/{kind}" for kind in ("simulation", "simulation-corpus", "detection", "fuzzing", "effect")]
OPTIONAL = ["evaluate", "effects", "cluster", "label/rules", *SCORES, "title"]
SHOWN = {"top": 4, "strata": 1}


def report(run: Run, settings: ReportSettings, redo: bool = False) -> Manifest:
    inputs = NEEDED + [unit for unit in OPTIONAL if run.find(unit)]
    clamps = clamp_records(run)
    redo = redo or run.find(UNIT) is not None and run.find(UNIT).summary.get("clamps") != len(clamps)
    work = run.begin(UNIT, VERSION, settings, inputs, redo)
    if work is None:
        return run.manifest(UNIT)
    features = Features(run)
    controls = [Run.open(name.strip()) for name in settings.control.split(",") if name.strip()]
    figures = draw(features, untrained_subject(controls), clamps, work.folder)
    text = "\n\n".join(part for part in sections(features, controls, clamps, settings, figures) if part) + "\n"
    with replacing(work.folder / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return work.commit({"figures": len(figures), "clamps": len(clamps), "control": settings.control})


def clamp_records(run: Run) -> list[dict]:
    return [read_json(p) for p in sorted((run.path / "clamps").glob("[0-9]*.json"))]


# ---------------------------------------------------------------- figures


def draw(features: Features, control: Run | None, clamps: list[dict], folder: Path) -> list[str]:
    """Draw every figure whose data there are, in both themes; returns their names without theme and ending."""
    makers = {
        "training": training_figure,
        "density": density_figure,
        "map": map_figure,
        "groups": groups_figure,
        "scores": lambda f, dark: scores_figure(f, control, dark),
        "kinds": kinds_figure,
    }
    for i, record in enumerate(r for r in clamps if "doses" in r):
        makers[f"clamp-{record['features'][0]}-{i + 1}"] = lambda f, dark, r=record: dose_curves(r["doses"], dose_title(r), dark)
    made = []
    for name, make in progress(makers.items(), "figures", unit="figure"):
        for dark in (False, True):
            figure = make(features, dark)
            if figure is None:
                break
            save(figure, folder / f"{name}{'-dark' if dark else ''}.png")
        else:
            made.append(name)
    return made


def training_figure(features: Features, dark: bool):
    rows = read_lines(features.run.folder("train") / "metrics.jsonl")
    steps, checks = [r for r in rows if "l0" in r], [r for r in rows if "calibrate_fvu" in r]
    if not steps or not checks:
        return None
    column = lambda table, name: np.array([r[name] for r in table], dtype=float)
    best = features.run.manifest("train").summary["best_step"]
    curves = [column(steps, name) for name in ("step", "fvu", "l0", "dead")] + [column(checks, name) for name in ("step", "calibrate_fvu")]
    return training_figures.training_curves(*curves, best, dark)


def density_figure(features: Features, dark: bool):
    density = features.postings.n_firings / features.postings.n_tokens
    return training_figures.density_histogram(density, dark) if (density > 0).any() else None


def map_figure(features: Features, dark: bool):
    if features.clusters is None:
        return None
    table = features.clusters[features.clusters["status"] != "dead"]
    named = {g: title for g, title in features.titles.items() if not title.startswith("mixed")}
    s, groups = features.run.manifest("cluster").summary, read_json(features.run.folder("cluster") / "groups.json")
    place = {int(feature): i for i, feature in enumerate(table.index)}
    caption = Caption(s["live"], s["dead"], s["groups"], s["noise"], s["isolated"], s["recall"], (s["null_groups"] or [None])[0])
    families, medoids = {g["group"]: g["family"] for g in groups}, {g["group"]: place[g["medoid"]] for g in groups}
    column = lambda name: table[name].to_numpy()
    return cluster_map(column("x"), column("y"), column("group"), named, caption, families, medoids, dark)


def groups_figure(features: Features, dark: bool):
    """Sizes of the groups, and what sets them apart from groups of random directions."""
    if features.clusters is None:
        return None
    s = features.run.manifest("cluster").summary
    if not s["groups"] or not s["null_groups"]:
        return None
    sizes = features.clusters["group"].value_counts()
    pairs = [("cosine within groups", "cosine_within", s["null_cosine_within"][0]), ("shared firing tokens", "likeness", s["null_likeness"])]
    comparisons = [(name, s[key], null) for name, key, null in pairs if s[key] is not None and null is not None]
    return group_figure({int(g): int(n) for g, n in sizes.items() if g >= 0}, features.titles, comparisons, dark)


def scores_figure(features: Features, control: Run | None, dark: bool):
    own = simulation_scores(features.run)
    if own is None or not own["value"].notna().any():
        return None
    other = simulation_scores(control) if control else None
    live = features.run.manifest("score/rules/simulation").summary["live"]
    column = lambda table, name: table[name].to_numpy(float)
    return score_figures.score_curves(column(own, "value"), column(own, "null"), None if other is None else column(other, "value"), live, dark)


def kinds_figure(features: Features, dark: bool):
    own = simulation_scores(features.run)
    if own is None or not own["value"].notna().any():
        return None
    labels = features.labels[features.labels["set"] == "rules"].set_index("feature")["kind"]
    grouped = own[own["value"].notna()].groupby(own["feature"].map(labels))["value"]
    kinds = [(str(kind), values.to_numpy()) for kind, values in grouped if len(values) >= 5]
    return score_figures.scores_by_kind([k for k, _ in kinds], [v for _, v in kinds], dark) if kinds else None


def simulation_scores(run: Run) -> pd.DataFrame | None:
    unit = "score/rules/simulation"
    return pd.read_parquet(run.folder(unit) / "scores.parquet") if run.find(unit) else None


# ---------------------------------------------------------------- text


def sections(features: Features, controls: list[Run], clamps: list[dict], settings: ReportSettings, figures: list[str]) -> list[str]:
    run = features.run
    control = untrained_subject(controls)
    return [
        f"# What the features of {run.settings.subject} mean",
        verdict(run, control),
        picture("map", figures, "Decoder directions, grouped and named"),
        "## The data\n\n" + data_section(run),
        "## The autoencoder\n\n" + autoencoder_section(run),
        picture("training", figures, "Training curves"),
        picture("density", figures, "Density of features"),
        "## What the labels predict\n\n" + scores_section(run, controls),
        kinds_of_score_section(run, controls),
        picture("scores", figures, "Scores against null and control"),
        picture("kinds", figures, "Scores by kind of label"),
        "## Groups\n\n" + groups_section(features),
        picture("groups", figures, "Sizes of the groups, beside a null"),
        "## Some features\n\n" + features_section(features, settings),
        "## Clamps\n\n" + clamps_section(clamps, figures) if clamps else "",
        "## How this was made\n\n" + provenance_section(run),
    ]


def picture(name: str, figures: list[str], alt: str) -> str:
    if name not in figures:
        return ""
    return f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png"><img alt="{alt}" src="{name}.png"></picture>'


def verdict(run: Run, control: Run | None) -> str:
    """The first paragraph: what was looked at, and how far the labels can be trusted."""
    capture, train = run.manifest("capture").summary, run.manifest("train").summary
    lines = [
        f"Site `{run.settings.site}`, {capture['tokens']:,} tokens of `{run.settings.corpus}`, a {train['architecture']} autoencoder of {train['features']:,} features."
    ]
    score = run.find("score/rules/simulation")
    if score and score.summary["n"]:
        s = score.summary
        lines.append(
            f"A label predicts its feature's activations on unseen documents with a median correlation of **{s['median']:.2f}** [{s['low']:.2f}, {s['high']:.2f}] "
            f"({s['n']:,} of {s['live']:,} live features have a score); another feature's label reaches {s['null_median']:.2f} on the same tokens."
        )
        other = control.find("score/rules/simulation") if control else None
        if other and other.summary["n"]:
            o = other.summary
            lines.append(
                f"**Control:** the same pipeline on the same architecture with random weights ({control.manifest('capture').summary['tokens']:,} tokens) gives a median of "
                f"{o['median']:.2f} over {o['n']:,} features. What the labels gain over that is what training put there; the rest says that tokens are predictable."
            )
    return " ".join(lines)


def table(header: list[str], rows: list[list]) -> str:
    cell = lambda v: str(v).replace("|", "\\|")
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *("| " + " | ".join(map(cell, r)) + " |" for r in rows)])


def code(text: str) -> str:
    """Text from a corpus as inline code that can neither end its own quotes nor become markup; a space at either end is kept."""
    shown = visible(text)
    ticks = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    space = " " if not shown or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def data_section(run: Run) -> str:
    s = run.manifest("capture").summary
    lengths = s["document_tokens"]
    frequent = " ".join(code(t) for t, _ in s["frequent_tokens"][:12])
    left = "; ".join(f"{n:,} {what}" for what, n in s["left_out"].items()) or "nothing"
    splits = table(["split", "documents", "tokens"], [[name, f"{v['documents']:,}", f"{v['tokens']:,}"] for name, v in s["splits"].items()])
    return (
        f"{s['documents']:,} documents of {lengths['min']:,} to {lengths['max']:,} tokens (median {lengths['median']:,}), {s['characters']:,} characters. "
        f"{s['tokens_used']:,} of the {s['vocabulary']:,} tokens of the vocabulary occur; the most frequent are {frequent}. Left out: {left}. "
        f"{s['near_duplicate_documents']} documents share a split with a near duplicate, and {s['copied_share_of_held_out']:.1%} of the held-out tokens stand in "
        f"text that is also in the explain split: scores leave those out.\n\n{splits}"
    )


def autoencoder_section(run: Run) -> str:
    t, index = run.manifest("train").summary, run.manifest("index").summary
    ended = f"stopped early at step {t['steps']}" if t["stopped_early"] else f"{t['steps']} steps"
    text = [
        f"{t['features']:,} features on {t['width']} dimensions, {t['vectors']:,} vectors in {ended} ({t['arithmetic']}); the weights of step {t['best_step']} were kept."
    ]
    if found := run.find("evaluate"):
        e = found.summary
        text.append(
            f"On the score split it leaves {e['fvu']:.1%} of the variance unexplained with {e['l0']:.1f} features a token. With it spliced in, the subject's loss goes from "
            f"{e['ce_clean']:.3f} to {e['ce_spliced']:.3f} nats a token: {e['recovered_mean']:.1%} of what mean ablation costs is recovered, {e['recovered_zero']:.1%} of what zero ablation costs."
        )
    text.append(f"The index holds {index['firings']:,} firings; {index['dead']} features are dead and {index['dense']} fire on over a tenth of the tokens.")
    return " ".join(text)


def scores_section(run: Run, controls: list[Run]) -> str:
    found = run.find("score/rules/simulation")
    if not found:
        return f"Not scored yet: `python main.py score {run.name}`."
    rows = [row for name, r in compared(run, controls) if (row := score_row(name, r, "simulation"))]
    head = ["", "median score", "null", "live features above their null", "scored", "failures"]
    return (
        "A score is the correlation between what the printed label predicts and what the feature does, over windows of documents that the labeller never saw: "
        "top activations, all strata of the non-zero activations, and random text. The null is the label of another feature of like density on the same tokens.\n\n"
        + table(head, rows)
    )


def untrained_subject(controls: list[Run]) -> Run | None:
    """The control whose subject has random weights, which the verdict and the figure speak of."""
    return next((c for c in controls if c.settings.weights == "random"), None)


def compared(run: Run, controls: list[Run]) -> list[tuple[str, Run]]:
    """The run and its controls with the names that the tables give them."""
    named = lambda r: (
        "untrained subject" if r.settings.weights == "random" else f"{untrained} directions" if (untrained := of_train(r, "untrained")) else r.name
    )
    return [("this subject", run), *((named(r), r) for r in controls)]


def of_train(run: Run, entry: str):
    found = run.find("train")
    return found.summary.get(entry) if found else None


def score_row(name: str, run: Run, kind: str) -> list[str] | None:
    found = run.find(f"score/rules/{kind}")
    if not found or not found.summary["n"]:
        return None
    s = found.summary
    failures = ", ".join(f"{n} {k}" for k, n in s["failures"].items()) or "none"
    median = f"{s['median']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"
    null = "-" if s["null_median"] is None else f"{s['null_median']:.2f}"
    return [name, median, null, f"{s['share_above_null']:.0%}", f"{s['n']:,} of {s['live']:,}", failures]


WHAT = {
    "simulation-corpus": "the same correlation over every held-out token",
    "detection": "in which windows it fires (balanced accuracy, .5 is chance)",
    "fuzzing": "whether the marked tokens are those it fires on (the same)",
    "effect": "whether the label names what a clamp promotes (area under the ROC curve, .5 is chance)",
}


def kinds_of_score_section(run: Run, controls: list[Run]) -> str:
    """The other kinds of score, with hard negatives, controls and how far the kinds agree in rank."""
    rows = []
    for kind, what in WHAT.items():
        for name, r in compared(run, controls):
            row = score_row(name, r, kind)
            if row is None:
                continue
            hard = r.find(f"score/rules/{kind}").summary.get("hard")
            rows.append([f"{kind}: {what}" if r is run else "", *row[:4], f"{hard['median']:.2f}" if hard and hard["median"] is not None else "-", *row[4:]])
    if not rows:
        return ""
    head = ["kind", "", "median", "null", "above null", "against rivals", "scored", "failures"]
    agreement = rank_table(run)
    return (
        "### Other kinds of score\n\nAgainst rivals: the silent windows are those where the nearest directions and the features that fire together with it do fire.\n\n"
        + table(head, rows)
        + (f"\n\nHow far the kinds put features in the same order (Spearman):\n\n{agreement}" if agreement else "")
    )


def rank_table(run: Run) -> str:
    """Spearman's correlation of every pair of kinds, as the units tell it."""
    kinds = [k for k in ("simulation", *WHAT) if run.find(f"score/rules/{k}")]
    told: dict[frozenset, float] = {}
    for kind in kinds:
        for other, found in run.find(f"score/rules/{kind}").summary.get("rank_correlation", {}).items():
            told[frozenset((kind, other))] = found["rho"]
    if not told:
        return ""
    value = lambda a, b: f"{told[frozenset((a, b))]:.2f}" if frozenset((a, b)) in told else ""
    return table(["", *kinds], [[a, *("" if a == b else value(a, b) for b in kinds)] for a in kinds])


def groups_section(features: Features) -> str:
    found = features.run.find("cluster")
    if not found:
        return f"Not grouped yet: `python main.py cluster {features.run.name}`."
    sizes = features.clusters["group"].value_counts()
    largest = [[g, features.titles.get(int(g), ""), n] for g, n in sizes.items() if g >= 0][:20]
    s = found.summary
    lead = f"{s['groups']} groups; {s['noise']} features are in none, {s['isolated']} stand alone, {s['dead']} are dead. "
    if s["null_groups"]:
        lead += (
            f"The same method finds {s['null_groups'][0]} groups among random directions with the same mean and covariance, so their number proves nothing; "
            f"what does is that members fire on the same tokens more than chance ({s['likeness']:.3f} against {s['null_likeness']:.3f} for groups drawn at random)."
            if s["null_groups"][0] >= s["groups"] and s["likeness"] is not None
            else f"Random directions with the same mean and covariance give {s['null_groups'][0]}."
        )
    return lead + "\n\n" + table(["group", "title", "features"], [[g, visible(t), n] for g, t, n in largest])


def chosen_features(features: Features, settings: ReportSettings) -> list[int]:
    """Those asked for, or some from the top, the middle and the bottom of the scores."""
    overview = features.overview()
    if settings.features:
        return parse_features(settings.features, overview["feature"])
    scored = overview[overview["score"].notna()].sort_values("score", kind="stable")["feature"].to_numpy()
    if not len(scored):
        return [int(f) for f in np.flatnonzero(features.postings.n_firings > 0)[:3]]
    return [int(scored[int(q * (len(scored) - 1))]) for q in (0.98, 0.9, 0.75, 0.5, 0.25, 0.05)]


def features_section(features: Features, settings: ReportSettings) -> str:
    parts = []
    for feature in chosen_features(features, settings):
        card = features.card(feature, SHOWN)
        lines = [f"### Feature {feature}"]
        for label in card["labels"]:
            value = next((s for s in label["scores"] if s["value"] is not None), None)
            scored = f"score {value['value']:.2f}, null {value['null']:.2f}" if value and value["null"] is not None else "no score"
            lines.append(f"**{label['set']}**: {code(label['text'])} ({scored})")
        promoted = " ".join(code(t["token"]) for t in card["promoted"][:6])
        lines.append(f"fires on {card['density']:.3%} of tokens" + (f"; promotes {promoted}" if promoted else ""))
        lines.append("\n".join(f"- {s['stratum']}: {marked(s)}" for s in card["snippets"]))
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)


def marked(snippet: dict) -> str:
    """A snippet as code, its peak between double brackets."""
    peak, tokens = snippet["peak"], snippet["tokens"]
    return code("".join(tokens[:peak]) + "⟦" + tokens[peak] + "⟧" + "".join(tokens[peak + 1 :]))


def clamps_section(clamps: list[dict], figures: list[str]) -> str:
    parts, drawn = [], 0
    for record in clamps:
        parts.append(f"### {'; '.join(record['clamps'])}")
        parts.append(" ".join(code(label) for label in record["labels"].values() if label))
        rows = [[code(p), code(b[:160]), code(c[:160])] for p, b, c in zip(record["prompts"], record["baseline"], record["clamped"], strict=True)]
        parts.append(table(["prompt", "baseline", "clamped"], rows[:3]))
        if "doses" in record:
            drawn += 1
            parts.append(picture(f"clamp-{record['features'][0]}-{drawn}", figures, "Dose and response"))
    return "\n\n".join(part for part in parts if part)


def provenance_section(run: Run) -> str:
    rows = []
    for unit in run.committed():
        m = run.manifest(unit)
        if unit != UNIT:
            rows.append([unit, f"{m.seconds:.0f} s", m.key[:12], ", ".join(f"{k}={v}" for k, v in m.settings.items() if v != "")])
    packages = ", ".join(f"{k} {v}" for k, v in run.manifest("capture").packages.items())
    return table(["unit", "time", "key", "settings"], rows) + f"\n\nSeed {run.settings.seed}. {packages}."
