"""Stage `report`: all that is committed -> report.md and its figures, light and dark.

Every number is read from a manifest or a table of the run. The report says what is not made yet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autointerp.controls import find_controls, gains
from autointerp.features import Features
from autointerp.pipeline import STAGES
from autointerp.scores.unit import COVERAGE, unit_of
from autointerp.settings import ReportSettings
from core.clamps.experiments import Experiment, experiments
from core.files import replace_file
from core.progress import say
from core.run import Run
from figures.markdown import code, picture, table
from figures.report.cluster_text import clusters_section, relations_section
from figures.report.drawings import Drawing, draw, list_drawings
from figures.report.feature_text import features_section
from figures.report.scores import (
    find_main_set,
    kinds_of_score_section,
    label_sets_section,
    scores_section,
    untrained_subject,
)

TEXTS = 160  # characters of a continuation in a table


def report(run: Run, settings: ReportSettings, folder: Path) -> dict:
    """Write report.md and its figures into `folder`; returns the summary.

    With `settings.readme` the figures are also written there, with Markdown that shows them.
    """
    features, clamps = Features(run), experiments(run)
    controls = [Run.open(name) for name in split_names(settings.control)]
    known = {c.path for c in controls}
    controls += [c.run for c in find_controls(run) if c.run.path not in known]
    compared = [Run.open(name) for name in split_names(settings.compare)]
    drawings = list_drawings(features, untrained_subject(controls), compared, clamps)
    figures = {figure["name"]: figure for figure in draw(drawings, folder, ("png",))}
    parts = list_sections(features, controls, clamps, settings, figures)
    write_text(folder / "report.md", "\n\n".join(part for part in parts if part) + "\n")
    if settings.readme:
        write_readme(drawings, Path(settings.readme))
    names = ",".join(c.name for c in controls)
    return {"figures": len(figures), "clamps": len(clamps), "control": names}


def split_names(text: str) -> list[str]:
    """`a, b` as ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def write_text(path: Path, text: str) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_readme(drawings: list[Drawing], folder: Path) -> None:
    """Write all figures as PNG and SVG, and figures.md: each with its caption, for both themes."""
    made = {figure["name"]: figure for figure in draw(drawings, folder, ("png", "svg"))}
    write_text(folder / "figures.md", "\n\n".join(picture(name, made) for name in made) + "\n")
    say(f"readme: {len(made)} figures and figures.md in {folder}")


# ---------------------------------------------------------------- text


def list_sections(
    features: Features,
    controls: list[Run],
    clamps: list[Experiment],
    settings: ReportSettings,
    figures: dict[str, dict],
) -> list[str]:
    """The parts of report.md in order; empty where there is nothing to say."""
    run = features.run
    read = STAGES["report"].requested(run, settings).inputs
    return [
        f"# What the features of {run.settings.subject} mean",
        describe_result(run, untrained_subject(controls)),
        picture("map", figures),
        "## The data\n\n" + data_section(run),
        "## The autoencoder\n\n" + autoencoder_section(run),
        *(picture(name, figures) for name in ("training", "sweep", "density")),
        "## What the labels predict\n\n" + scores_section(run, controls),
        kinds_of_score_section(run, controls),
        label_sets_section(run, read),
        *(picture(name, figures) for name in ("scores", "kinds", "score-density")),
        "## Clusters\n\n" + clusters_section(features),
        *(picture(name, figures) for name in ("nulls", "clusters", "tree", "together")),
        relations_section(features),
        "## Some features\n\n" + features_section(features, settings.features),
        "## Clamps\n\n" + clamps_section(clamps, figures) if clamps else "",
        "## How this was made\n\n" + provenance_section(run),
    ]


def describe_result(run: Run, control: Run | None) -> str:
    """The first paragraph: what was looked at, and how far the labels can be trusted."""
    capture, train = run.manifest("capture").summary, run.manifest("train").summary
    tokens = f"{capture['tokens']:,} tokens of `{run.settings.corpus}`"
    sae = f"a {train['architecture']} autoencoder of {train['features']:,} features"
    site, predicted = run.settings.site, run.settings.site_out
    place = f"Read at `{site}`, written at `{predicted}`" if predicted else f"Site `{site}`"
    lines = [f"{place}, {tokens}, {sae}."]
    unit = f"score/{find_main_set(run)}/simulation"
    score = run.find(unit)
    if not score or not score.summary["n"]:
        return lines[0]
    s = score.summary
    if (covered := run.find(unit_of(find_main_set(run), COVERAGE))) and covered.summary["n"]:
        c = covered.summary
        lines.append(
            f"The labels name **{c['named']:.0%}** of all activation on unseen documents (labels "
            f"of other features {c['null_named']:.0%}), and {c['medians']['recall_top']:.0%} of "
            f"the strongest tenth of the median feature's firings.{describe_gain(run)}"
        )
    lines.append(
        "A label predicts its feature's activations on unseen documents with a median correlation "
        f"of **{s['median']:.2f}** [{s['low']:.2f}, {s['high']:.2f}] ({s['n']:,} of "
        f"{s['alive']:,} alive features have a score); another feature's label reaches "
        f"{s['null_median']:.2f} on the same tokens."
    )
    other = control.find(unit) if control else None
    if control and other and other.summary["n"]:
        o, n_tokens = other.summary, control.manifest("capture").summary["tokens"]
        lines.append(
            "**Control:** the same pipeline on the same architecture with random weights "
            f"({n_tokens:,} tokens) gives a median of {o['median']:.2f} over {o['n']:,} features. "
            "What the labels gain over that is what training put there; the rest says that tokens "
            "are predictable."
        )
    return " ".join(lines)


def describe_gain(run: Run) -> str:
    """How much more the labels cover than those of the controls; empty without controls."""
    known = Features(run)
    table = known.table(find_main_set(run)).dropna(subset=["coverage"])
    found = gains(
        find_controls(run), table["density"].to_numpy(), table["coverage"].to_numpy(float)
    )
    if not found:
        return ""
    parts = [f"{np.nanmedian(gain):.0%} over the {name}" for name, gain in found.items()]
    return f" The median label gains {' and '.join(parts)} at like density."


def data_section(run: Run) -> str:
    s = run.manifest("capture").summary
    lengths, share = s["document_tokens"], s["copied_share_of_held_out"]
    frequent = " ".join(code(t) for t, _ in s["frequent_tokens"][:12])
    left = "; ".join(f"{n:,} {what}" for what, n in s["left_out"].items()) or "nothing"
    rows = [[name, f"{v['documents']:,}", f"{v['tokens']:,}"] for name, v in s["splits"].items()]
    return (
        f"{s['documents']:,} documents of {lengths['min']:,} to {lengths['max']:,} tokens "
        f"(median {lengths['median']:,}), {s['characters']:,} characters. "
        f"{s['tokens_used']:,} of the {s['vocabulary']:,} tokens of the vocabulary occur; "
        f"the most frequent are {frequent}. Left out: {left}. "
        f"{s['near_duplicate_documents']} documents share a split with a near duplicate, and "
        f"{share:.1%} of the held-out tokens stand in text that is also in the train split: "
        f"scores leave those out.\n\n{table(['split', 'documents', 'tokens'], rows)}"
    )


def autoencoder_section(run: Run) -> str:
    t, index = run.manifest("train").summary, run.manifest("index").summary
    text = [f"{t['features']:,} features on {t['width']} dimensions, {describe_origin(t)}."]
    unit = run.find("evaluate")
    if unit and "skipped" in unit.summary:
        text.append(f"It was not evaluated: {unit.summary['skipped']}.")
    elif unit:
        e = unit.summary
        text.append(
            f"On the test split it leaves {e['fvu']:.1%} of the variance unexplained with "
            f"{e['l0']:.1f} features a token. With it spliced in, the subject's loss goes from "
            f"{e['ce_clean']:.3f} to {e['ce_spliced']:.3f} nats a token: "
            f"{e['recovered_mean']:.1%} of what mean ablation costs is recovered, "
            f"{e['recovered_zero']:.1%} of what zero ablation costs."
        )
    text.append(
        f"The index holds {index['firings']:,} firings; {index['dead']} features are dead and "
        f"{index['dense']} fire on over a tenth of the tokens."
    )
    return " ".join(text)


def describe_origin(train: dict) -> str:
    """Say where the autoencoder comes from, by the summary of `train`."""
    if "source" in train:
        return f"loaded from a published one ({train['source']})"
    ended = f"{train['steps']} steps"
    if train["stopped_early"]:
        ended = f"stopped early at step {train['steps']}"
    kept = f"the weights of step {train['best_step']} were kept"
    return f"{train['vectors']:,} vectors in {ended} ({train['arithmetic']}); {kept}"


def clamps_section(clamps: list[Experiment], figures: dict[str, dict]) -> str:
    """Each kept experiment: its labels, its first three pairs of texts, its dose figure."""
    parts, drawn = [], 0
    for record in clamps:
        parts.append(f"### {'; '.join(record.clamps)}")
        parts.append(" ".join(code(label) for label in record.labels.values() if label))
        texts = zip(record.prompts, record.baseline, record.clamped, strict=True)
        rows = [[code(p), code(b[:TEXTS]), code(c[:TEXTS])] for p, b, c in texts]
        parts.append(table(["prompt", "baseline", "clamped"], rows[:3]))
        if record.doses is not None:
            drawn += 1
            parts.append(picture(f"clamp-{record.features[0]}-{drawn}", figures))
    return "\n\n".join(part for part in parts if part)


def provenance_section(run: Run) -> str:
    """Time, key and settings of every unit, the seed, and the versions of packages."""
    rows = []
    for unit in run.committed():
        m = run.manifest(unit)
        if unit != "report":
            settings = ", ".join(f"{k}={v}" for k, v in m.settings.items() if v != "")
            rows.append([unit, f"{m.seconds:.0f} s", m.key[:12], settings])
    packages = ", ".join(f"{k} {v}" for k, v in run.manifest("capture").packages.items())
    units = table(["unit", "time", "key", "settings"], rows)
    return f"{units}\n\nSeed {run.settings.seed}. {packages}."
