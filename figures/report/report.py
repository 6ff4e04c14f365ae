"""Stage `report`: everything that is committed -> report.md and its figures, light and dark.

Every number is read from a manifest or a table of the run, none is typed. What has not been made is said to be missing. Asked for again with the same
flags it is made anew where anything that it shows has changed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autointerp.features import Features
from autointerp.settings import parse_features
from core.clamps.experiments import experiments
from core.errors import NotReady
from core.files import read_json, replacing
from core.progress import say
from core.records import Manifest
from core.run import Run
from core.settings import key_table
from figures.markdown import code, marked, picture, table
from figures.report.drawings import Drawing, draw, drawings_of
from figures.report.scores import (
    kinds_of_score_section,
    label_sets_section,
    label_units,
    main_set,
    scores_section,
    untrained_subject,
)
from figures.report.settings import ReportSettings
from figures.text import visible

UNIT, VERSION = "report", 3
NEEDED = ["capture", "train", "index"]
OPTIONAL = ["evaluate", "effects", "cluster", "title", "relate"]
SHOWN = {"top": 4, "strata": 1}


def report(run: Run, settings: ReportSettings, redo: bool = False) -> Manifest:
    inputs = NEEDED + [unit for unit in OPTIONAL if run.find(unit)] + label_units(run)
    grouped = run.find("cluster")
    if grouped and "layers" not in grouped.summary:
        raise NotReady(
            "cluster was made by an older version of this program, without layers and proof.",
            f"Make it anew: {run.command('cluster')} --redo",
        )
    clamps = experiments(run)
    found = run.find(UNIT)
    if found and found.settings == key_table(
        settings
    ):  # with other flags it is refused, as everywhere
        redo = redo or (
            found.version,
            [*found.inputs],
            found.summary.get("clamps"),
            run.state(UNIT),
        ) != (VERSION, inputs, len(clamps), "done")
    work = run.begin(UNIT, VERSION, settings, inputs, redo)
    manifest = run.manifest(UNIT) if work is None else None
    if manifest and not settings.readme:
        return manifest
    features = Features(run)
    controls = [Run.open(name.strip()) for name in settings.control.split(",") if name.strip()]
    compared = [Run.open(name) for name in settings.compare.split(",") if name]
    drawings = drawings_of(features, untrained_subject(controls), compared, clamps)
    if work is not None:
        figures = draw(drawings, work.folder, ("png",))
        parts = sections(features, controls, clamps, settings, {f["name"]: f for f in figures})
        write_text(work.folder / "report.md", "\n\n".join(part for part in parts if part) + "\n")
        manifest = work.commit(
            {"figures": len(figures), "clamps": len(clamps), "control": settings.control}
        )
    if settings.readme:
        write_readme(drawings, Path(settings.readme))
    return manifest


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_readme(drawings: list[Drawing], folder: Path) -> None:
    """Draw everything into `folder`, PNG and SVG, and write figures.md there: Markdown with a picture element for both themes and a caption for each."""
    made = {figure["name"]: figure for figure in draw(drawings, folder, ("png", "svg"))}
    write_text(folder / "figures.md", "\n\n".join(picture(name, made) for name in made) + "\n")
    say(f"readme: {len(made)} figures and figures.md in {folder}")


# ---------------------------------------------------------------- text


def sections(
    features: Features,
    controls: list[Run],
    clamps: list[dict],
    settings: ReportSettings,
    figures: dict[str, dict],
) -> list[str]:
    run = features.run
    control = untrained_subject(controls)
    return [
        f"# What the features of {run.settings.subject} mean",
        verdict(run, control),
        picture("map", figures),
        "## The data\n\n" + data_section(run),
        "## The autoencoder\n\n" + autoencoder_section(run),
        picture("training", figures),
        picture("sweep", figures),
        picture("density", figures),
        "## What the labels predict\n\n" + scores_section(run, controls),
        kinds_of_score_section(run, controls),
        label_sets_section(run),
        picture("scores", figures),
        picture("kinds", figures),
        picture("score-density", figures),
        "## Groups\n\n" + groups_section(features),
        *(picture(name, figures) for name in ("nulls", "groups", "tree", "together")),
        relations_section(features),
        "## Some features\n\n" + features_section(features, settings),
        "## Clamps\n\n" + clamps_section(clamps, figures) if clamps else "",
        "## How this was made\n\n" + provenance_section(run),
    ]


def verdict(run: Run, control: Run | None) -> str:
    """The first paragraph: what was looked at, and how far the labels can be trusted."""
    capture, train = run.manifest("capture").summary, run.manifest("train").summary
    lines = [
        f"Site `{run.settings.site}`, {capture['tokens']:,} tokens of `{run.settings.corpus}`, a {train['architecture']} autoencoder of {train['features']:,} features."
    ]
    unit = f"score/{main_set(run)}/simulation"
    score = run.find(unit)
    if score and score.summary["n"]:
        s = score.summary
        lines.append(
            f"A label predicts its feature's activations on unseen documents with a median correlation of **{s['median']:.2f}** [{s['low']:.2f}, {s['high']:.2f}] "
            f"({s['n']:,} of {s['live']:,} live features have a score); another feature's label reaches {s['null_median']:.2f} on the same tokens."
        )
        other = control.find(unit) if control else None
        if other and other.summary["n"]:
            o = other.summary
            lines.append(
                f"**Control:** the same pipeline on the same architecture with random weights ({control.manifest('capture').summary['tokens']:,} tokens) gives a median of "
                f"{o['median']:.2f} over {o['n']:,} features. What the labels gain over that is what training put there; the rest says that tokens are predictable."
            )
    return " ".join(lines)


def data_section(run: Run) -> str:
    s = run.manifest("capture").summary
    lengths = s["document_tokens"]
    frequent = " ".join(code(t) for t, _ in s["frequent_tokens"][:12])
    left = "; ".join(f"{n:,} {what}" for what, n in s["left_out"].items()) or "nothing"
    splits = table(
        ["split", "documents", "tokens"],
        [[name, f"{v['documents']:,}", f"{v['tokens']:,}"] for name, v in s["splits"].items()],
    )
    return (
        f"{s['documents']:,} documents of {lengths['min']:,} to {lengths['max']:,} tokens (median {lengths['median']:,}), {s['characters']:,} characters. "
        f"{s['tokens_used']:,} of the {s['vocabulary']:,} tokens of the vocabulary occur; the most frequent are {frequent}. Left out: {left}. "
        f"{s['near_duplicate_documents']} documents share a split with a near duplicate, and {s['copied_share_of_held_out']:.1%} of the held-out tokens stand in "
        f"text that is also in the train split: scores leave those out.\n\n{splits}"
    )


def autoencoder_section(run: Run) -> str:
    t, index = run.manifest("train").summary, run.manifest("index").summary
    text = [f"{t['features']:,} features on {t['width']} dimensions, {origin(t)}."]
    if found := run.find("evaluate"):
        e = found.summary
        text.append(
            f"On the test split it leaves {e['fvu']:.1%} of the variance unexplained with {e['l0']:.1f} features a token. With it spliced in, the subject's loss goes from "
            f"{e['ce_clean']:.3f} to {e['ce_spliced']:.3f} nats a token: {e['recovered_mean']:.1%} of what mean ablation costs is recovered, {e['recovered_zero']:.1%} of what zero ablation costs."
        )
    text.append(
        f"The index holds {index['firings']:,} firings; {index['dead']} features are dead and {index['dense']} fire on over a tenth of the tokens."
    )
    return " ".join(text)


def origin(train: dict) -> str:
    """Where the autoencoder comes from, by the summary of `train`."""
    if "source" in train:
        return f"loaded from a published one ({train['source']})"
    ended = (
        f"stopped early at step {train['steps']}"
        if train["stopped_early"]
        else f"{train['steps']} steps"
    )
    return f"{train['vectors']:,} vectors in {ended} ({train['arithmetic']}); the weights of step {train['best_step']} were kept"


def groups_section(features: Features) -> str:
    """The verdict first, then what it rests on, then the largest groups."""
    found = features.run.find("cluster")
    if not found:
        return f"Not grouped yet: `python main.py cluster {features.run.name}`."
    s, proof = found.summary, read_json(features.run.folder("cluster") / "proof.json")
    lead = (
        f"**{s['verdict']}**\n\n{' > '.join(map(str, s['layers'])) or 'No'} groups; {s['noise']} features are in none of the finest layer, "
        f"{s['isolated']} stand alone, {s['dead']} are dead, {s['duplicates']} pairs are duplicates."
    )
    titles = features.run.find("title")
    rows = [*proof_rows(s, proof), *(name_rows(titles.summary) if titles else [])]
    named = named_groups(features)
    parts = [lead, table(["measure", "here", "null or chance"], rows)]
    if titles:
        n = sum(len(np.unique(layer.group[layer.group >= 0])) for layer in features.layers)
        parts.append(
            f"{len(named)} of {n} groups, all layers together, come back in subsamples and share something that can be named; the others have no name."
        )
    return "\n\n".join(
        parts + ([table(["layer", "group", "title", "features"], named[:20])] if named else [])
    )


def named_groups(features: Features) -> list[list]:
    """layer, group, title, size of the groups that have a name, the largest first in each layer."""
    rows = []
    for i, layer in enumerate(features.layers):
        groups, sizes = np.unique(layer.group[layer.group >= 0], return_counts=True)
        found = [
            [i, g, visible(layer.titles[g]), n]
            for g, n in zip(groups.tolist(), sizes.tolist(), strict=True)
            if layer.titles.get(g)
        ]
        rows += sorted(found, key=lambda row: -row[3])
    return rows


def shown(value, form: str = ".3f") -> str:
    return "not tried" if value is None else format(value, form)


def against(found: dict | None, form: str = ".4f") -> list[str]:
    """Value, and its shuffles with z and p."""
    if found is None:
        return ["none", ""]
    return [
        format(found["value"], form),
        f"{found['null']:{form}} ± {found['spread']:{form}} (z {shown(found['z'], '.1f')}, p {found['p']:.3f})",
    ]


def proof_rows(s: dict, proof: dict) -> list[list[str]]:
    nulls = s["null_cohesion"]
    clouds = (
        f"{np.mean(nulls):.3f} ± {np.std(nulls):.3f} ({len(nulls)} Gaussian clouds)"
        if nulls
        else "not tried"
    )
    firing = proof["firing"]["layers"][-1] if proof["firing"]["layers"] else None
    return [
        ["cohesion of the finest layer", shown(s["cohesion"]), clouds],
        [
            "groups of the finest layer",
            str(s["groups"]),
            ", ".join(map(str, s["null_groups"])) or "not tried",
        ],
        ["groups that come back in subsamples (Jaccard at least 0.5)", shown(s["kept"], ".0%"), ""],
        [
            "ARI of subsamples, of other seeds",
            f"{shown(s['ari_subsamples'])}, {shown(s['ari_seeds'])}",
            "0",
        ],
        [
            "15 neighbours kept by the space of the groups, by the map",
            f"{shown(s['recall_space'], '.0%')}, {shown(s['recall'], '.0%')}",
            "",
        ],
        ["firing together within groups (phi)", *against(firing)],
        ["tokens in common within groups", *against(proof["tokens"])],
        [
            "agreement with groups of the co-activation graph (AMI)",
            *against(proof["firing"]["graph"]["ami"], ".3f"),
        ],
    ]


def name_rows(s: dict) -> list[list[str]]:
    agreed = {name: s[f"agreement_{name}"] for name in ("value", "null", "z", "p")}
    spread = None if agreed["z"] in (None, 0) else (agreed["value"] - agreed["null"]) / agreed["z"]
    agreement = None if agreed["value"] is None or spread is None else agreed | {"spread": spread}
    test = (
        "none"
        if s["intruder_share"] is None
        else f"{s['intruder_share']:.0%} [{s['intruder_low']:.0%}, {s['intruder_high']:.0%}] of {s['intruder_n']}"
    )
    return [
        ["agreement of labels within groups", *against(agreement)],
        ["intruder found from a group's name and five labels", test, "20 %"],
    ]


def relations_section(features: Features) -> str:
    found = features.run.find("relate")
    if not found or not len(features.relations):
        return ""
    s = found.summary
    rows = [
        [r.kind, r.feature, code(features.label(r.feature)[:60]), r.other, code(features.label(r.other)[:60]), f"{r.strength:.2f}"]
        for _, part in features.relations.groupby("kind", sort=False) for r in part.head(4).itertuples()
    ]  # fmt: skip
    lead = f"{s['duplicate']} near duplicates, {s['splitting']} pairs of probable splitting, {s['absorption']} of probable absorption (the first feature by the second)."
    return f"### Features that belong together in another sense\n\n{lead}\n\n" + table(
        ["kind", "feature", "label", "other", "label", "strength"], rows
    )


def chosen_features(features: Features, settings: ReportSettings) -> list[int]:
    """Those asked for, or some from the top, the middle and the bottom of the scores."""
    overview = features.overview()
    if settings.features:
        return parse_features(settings.features, overview["feature"])
    scored = (
        overview[overview["score"].notna()]
        .sort_values("score", kind="stable")["feature"]
        .to_numpy()
    )
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
            scored = (
                f"score {value['value']:.2f}, null {value['null']:.2f}"
                if value and value["null"] is not None
                else "no score"
            )
            lines.append(f"**{label['set']}**: {code(label['text'])} ({scored})")
        promoted = " ".join(code(t["token"]) for t in card["promoted"][:6])
        lines.append(
            f"fires on {card['density']:.3%} of tokens"
            + (f"; promotes {promoted}" if promoted else "")
        )
        lines.append("\n".join(f"- {s['stratum']}: {marked(s)}" for s in card["snippets"]))
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)


def clamps_section(clamps: list[dict], figures: dict[str, dict]) -> str:
    parts, drawn = [], 0
    for record in clamps:
        parts.append(f"### {'; '.join(record['clamps'])}")
        parts.append(" ".join(code(label) for label in record["labels"].values() if label))
        rows = [
            [code(p), code(b[:160]), code(c[:160])]
            for p, b, c in zip(
                record["prompts"], record["baseline"], record["clamped"], strict=True
            )
        ]
        parts.append(table(["prompt", "baseline", "clamped"], rows[:3]))
        if "doses" in record:
            drawn += 1
            parts.append(picture(f"clamp-{record['features'][0]}-{drawn}", figures))
    return "\n\n".join(part for part in parts if part)


def provenance_section(run: Run) -> str:
    rows = []
    for unit in run.committed():
        m = run.manifest(unit)
        if unit != UNIT:
            rows.append(
                [
                    unit,
                    f"{m.seconds:.0f} s",
                    m.key[:12],
                    ", ".join(f"{k}={v}" for k, v in m.settings.items() if v != ""),
                ]
            )
    packages = ", ".join(f"{k} {v}" for k, v in run.manifest("capture").packages.items())
    return (
        table(["unit", "time", "key", "settings"], rows)
        + f"\n\nSeed {run.settings.seed}. {packages}."
    )
