"""Export all features in neuronpedia's formats, as its public sources defined them in 2026.

    upload/upload-00000.json     bodies of POST /api/feature/upload-batch, 128 features each: the
                                 interface that is open to every user
    MODEL/SOURCE/*.jsonl         model, release, source set and source, one line each
    MODEL/SOURCE/{features,activations,explanations}/batch-0.jsonl.gz    bulk data, a row a line
    scores.jsonl                 value, interval and null of every score; the format has no field
                                 for them

Rows are joined by their index alone: other exports write it as a string or as a number, and cut
batches in other places. `neuronpedia_import` reads these files.
"""

from __future__ import annotations

import gzip
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from autointerp.card import Card
from autointerp.features import Features
from autointerp.labels.unit import list_sets, read_explanations, unit_of
from core.errors import UsageError
from core.files import replace_file, write_json
from core.progress import progress
from core.records import Site
from core.run import Run

UPLOAD = 128  # features in an upload, the most that is accepted
BATCH = 1024  # features in a file of the bulk folder
LONGEST = 512  # characters of an explanation in an upload
MOST_LOGITS = 20  # logits of each side in an upload
SNIPPETS = {"top": 10, "strata": 4}
SHORT = {
    "resid_post": "res",
    "resid_pre": "respre",
    "mlp_out": "mlp",
    "attn_out": "att",
    "attn_z": "attz",
}
Row = dict[str, Any]
Explanations = dict[tuple[str, int], list[tuple[str, str | None]]]  # see `read_imported`


def export_neuronpedia(
    features: Features, folder: Path, model: str = "", source: str = ""
) -> list[Path]:
    """Write upload batches, the bulk folder and our scores; returns the paths of the files.

    Features that never fire are left out: the format demands activations. Raises UsageError when
    `source` is no name of a source.
    """
    run, n_features = features.run, features.evidence.n_features
    model = (model or Path(run.settings.subject).name).lower()
    source = (source or name_source(run, n_features)).lower()
    if not re.fullmatch(r"\d+-[a-z0-9._-]+", source):
        raise UsageError(
            f"{source!r} is no name of a source.",
            "Use a layer, a dash and a name, such as 6-my-res-16k.",
        )
    walk = features.cards.walk(SNIPPETS)
    cards = [c for c in progress(walk, "export", unit="feat", total=n_features) if c.snippets]
    paths = write_uploads(run, cards, folder / "upload", {"modelId": model, "source": source})
    key = {"modelId": model, "layer": source}
    paths += write_bulk(run, cards, folder / model / source, key)
    for name, row in describe_source(run, model, source, n_features).items():
        paths.append(folder / model / source / f"{name}.jsonl")
        write_lines(paths[-1], [row])
    paths.append(folder / "scores.jsonl")
    write_lines(paths[-1], score_rows(key, cards))
    return paths


def name_source(run: Run, n_features: int) -> str:
    """Return `3-res-2k` for 2,048 features at resid_post.3."""
    site = Site.parse(run.settings.site)
    size = f"{n_features // 1024}k" if n_features >= 1024 else str(n_features)
    return f"{site.layer or 0}-{SHORT.get(site.kind, site.kind)}-{size}"


def name_llm(run: Run, label_set: str) -> str:
    """Return the name of the LLM that gave the labels of a set, or an empty text."""
    manifest = run.find(unit_of(label_set))
    return str(manifest.summary.get("model") or "") if manifest else ""


# ---------------------------------------------------------------- uploads


def write_uploads(run: Run, cards: list[Card], folder: Path, key: Row) -> list[Path]:
    """Write the bodies of upload requests; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, len(cards), UPLOAD)):
        paths.append(folder / f"upload-{number:05d}.json")
        part = [upload_row(run, card) for card in cards[start : start + UPLOAD]]
        write_json(paths[-1], key | {"features": part})
    return paths


def upload_row(run: Run, card: Card) -> Row:
    """Return a feature as an upload holds it."""
    explanations = []
    for label in card.labels:
        row = {"text": label["text"][:LONGEST], "methodName": label["set"]}
        name = name_llm(run, label["set"])
        explanations.append(row | ({"modelName": name} if name else {}))
    return {
        "index": card.feature,
        "density": card.density,
        "topLogits": logit_rows(card.promoted),
        "bottomLogits": logit_rows(card.suppressed),
        "explanations": explanations,
        "activations": [upload_activation(card, snippet) for snippet in card.snippets],
    }


def logit_rows(tokens: list[Row]) -> list[Row]:
    """Return promoted or suppressed tokens as an upload holds them."""
    return [{"token": t["token"], "value": t["logit"]} for t in tokens[:MOST_LOGITS]]


def upload_activation(card: Card, snippet: Row) -> Row:
    """Return a snippet as an upload holds it, with the bounds of its quantile stratum."""
    row = {"tokens": snippet["tokens"], "values": snippet["activations"]}
    if bounds := stratum_bounds(card, snippet["stratum"]):
        row |= dict(zip(("quantileMin", "quantileMax", "quantileFraction"), bounds, strict=True))
    return row


def stratum_bounds(card: Card, name: str) -> tuple[float, float, float] | None:
    """Return (smallest activation, largest, share of the firings) of a quantile stratum.

    None for `top` and every other stratum that is no quantile stratum.
    """
    largest = card.max
    for stratum in card.strata:  # highest first
        if stratum["stratum"] == name:
            return stratum["low"], largest, stratum["firings"]
        largest = stratum["low"]
    return None


# ---------------------------------------------------------------- bulk data


def write_bulk(run: Run, cards: list[Card], folder: Path, key: Row) -> list[Path]:
    """Write features, activations and explanations in batches; returns the paths of the files."""
    imported = read_imported(run)
    tables: dict[str, Callable[[Card], Iterable[Row]]] = {
        "features": lambda card: [feature_row(key, card)],
        "activations": lambda card: activation_rows(key, card),
        "explanations": lambda card: explanation_rows(run, key, card, imported),
    }
    for name in tables:
        (folder / name).mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, len(cards), BATCH)):
        for name, rows_of in tables.items():
            paths.append(folder / name / f"batch-{number}.jsonl.gz")
            part = cards[start : start + BATCH]
            write_lines(paths[-1], (row for card in part for row in rows_of(card)))
    return paths


def feature_row(key: Row, card: Card) -> Row:
    """Return the row of a feature."""
    edges = card.histogram["edges"]
    middles = [(a + b) / 2 for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return key | {
        "index": str(card.feature),
        "maxActApprox": card.max,
        "frac_nonzero": card.density,
        "hasVector": False,
        "vector": [],
        "pos_str": [t["token"] for t in card.promoted],
        "pos_values": [t["logit"] for t in card.promoted],
        "neg_str": [t["token"] for t in card.suppressed],
        "neg_values": [t["logit"] for t in card.suppressed],
        "topkCosSimIndices": [n["feature"] for n in card.neighbours],
        "topkCosSimValues": [n["cosine"] for n in card.neighbours],
        "freq_hist_data_bar_heights": card.histogram["counts"],
        "freq_hist_data_bar_values": middles,
    }


def activation_rows(key: Row, card: Card) -> Iterator[Row]:
    """Yield the row of each snippet; the format marks the top stratum by bins of -1."""
    top = -1.0, card.max, -1.0
    for number, snippet in enumerate(card.snippets):
        values, row = snippet["activations"], key | {"index": str(card.feature)}
        low, high, share = stratum_bounds(card, snippet["stratum"]) or top
        yield row | {
            "id": make_id(row, str(number)),
            "creatorId": "",
            "tokens": snippet["tokens"],
            "values": values,
            "maxValue": max(values),
            "minValue": min(values),
            "maxValueTokenIndex": values.index(max(values)),
            "dataSource": snippet["document"],
            "dataIndex": str(snippet["start"]),
            "binMin": low,
            "binMax": high,
            "binContains": share,
            "qualifyingTokenIndex": snippet["peak"],
        }


def explanation_rows(run: Run, key: Row, card: Card, imported: Explanations) -> Iterator[Row]:
    """Yield the row of each label; for an imported set, of each explanation in its source."""
    row = key | {"index": str(card.feature)}
    for label in card.labels:
        name, own = label["set"], [(label["text"], name_llm(run, label["set"]) or None)]
        for number, (text, llm) in enumerate(imported.get((name, card.feature), own)):
            yield row | {
                "id": make_id(row, name + (f"/{number}" if number else "")),
                "authorId": "",
                "description": text,
                "typeName": name,
                "explanationModelName": llm,
            }


def read_imported(run: Run) -> Explanations:
    """Return {(set, feature): [(text, LLM or None)]} of imported sets, in the source's order."""
    rows: Explanations = {}
    for label_set in list_sets(run):
        table = read_explanations(run, label_set)
        if table is None:
            continue
        columns = (table[c] for c in ("feature", "description", "explanationModelName"))
        for feature, text, name in zip(*columns, strict=True):
            pair = text, name if isinstance(name, str) else None
            rows.setdefault((label_set, int(feature)), []).append(pair)
    return rows


def score_rows(key: Row, cards: list[Card]) -> Iterator[Row]:
    """Yield the row of each score of each label."""
    for card in cards:
        for label in card.labels:
            for score in label["scores"]:
                yield key | {"index": str(card.feature), "set": label["set"], **score}


def make_id(row: Row, name: str) -> str:
    """Return an id that the same row always gets."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join([*map(str, row.values()), name])))


def describe_source(run: Run, model: str, source: str, n_features: int) -> dict[str, Row]:
    """Return the rows of model, release, source set and source."""
    layer, _, set_name = source.partition("-")
    capture = run.manifest("capture").summary
    named = {"creatorId": "", "creatorName": "", "urls": []}
    return {
        "model": {
            "id": model,
            "instruct": False,
            "creatorId": "",
            "displayName": model,
            "displayNameShort": model,
            "layers": int(layer) + 1,
            "neuronsPerLayer": 0,
        },
        "release": named
        | {
            "name": set_name,
            "description": f"{n_features} features at {run.settings.site}",
            "descriptionShort": set_name,
            "creatorNameShort": "",
        },
        "sourceset": named
        | {
            "modelId": model,
            "name": set_name,
            "description": set_name,
            "type": "sae",
            "releaseName": set_name,
        },
        "source": {
            "id": source,
            "modelId": model,
            "setName": set_name,
            "creatorId": "",
            "hasDashboards": True,
            "visibility": "PRIVATE",
            "dataset": Path(run.settings.corpus).name,
            "num_prompts": capture.get("rows"),
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
        },
    }


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines, gzipped where the name says so; equal rows give equal bytes."""
    text = "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows)
    packed = gzip.compress(text.encode(), 5, mtime=0) if path.suffix == ".gz" else text.encode()
    with replace_file(path) as temporary:
        temporary.write_bytes(packed)
