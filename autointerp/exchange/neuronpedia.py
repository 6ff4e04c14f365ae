"""Write what is known of all features in other people's formats; `imported` reads them.

neuronpedia, as its public sources stood in 2026:

    upload/upload-00000.json     bodies of POST /api/feature/upload-batch, 128 features each: the door that any user has
    MODEL/SOURCE/*.jsonl         model, release, source set and source, one line each
    MODEL/SOURCE/{features,activations,explanations}/batch-0.jsonl.gz    the bulk folder, one row a line
    scores.jsonl                 ours: value, interval and null of every score, which its format has no place for

Rows are joined by their index alone: it is a string in some exports and a number in others, and batches are cut differently.
"""

from __future__ import annotations

import gzip
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from autointerp.features import Features
from core.errors import UsageError
from core.files import replacing, write_json
from core.progress import progress
from core.records import Site
from core.run import Run

UPLOAD, BATCH = (
    128,
    1024,
)  # features in an upload (the most that is taken), and in a file of the bulk folder
LONGEST, MOST_LOGITS = 512, 20  # characters of an explanation, and logits, that an upload takes
SNIPPETS = {"top": 10, "strata": 4}
SHORT = {
    "resid_post": "res",
    "resid_pre": "respre",
    "mlp_out": "mlp",
    "attn_out": "att",
    "attn_z": "attz",
}


# ---------------------------------------------------------------- tables


# ---------------------------------------------------------------- to neuronpedia


def export_neuronpedia(
    features: Features, folder: Path, model: str = "", source: str = ""
) -> list[Path]:
    """Write upload batches, the bulk folder and our scores; returns their paths. Features that never fire have no activations, which
    the format demands, and are left out."""
    run = features.run
    model = (model or Path(run.settings.subject).name).lower()
    source = (source or source_name(run, features.postings.n_features)).lower()
    if not re.fullmatch(r"\d+-[a-z0-9._-]+", source):
        raise UsageError(
            f"{source!r} is no name of a source.",
            "Use a layer, a dash and a name, such as 6-my-res-16k.",
        )
    bulk = folder / model / source
    for part in ("features", "activations", "explanations"):
        (bulk / part).mkdir(parents=True, exist_ok=True)
    (folder / "upload").mkdir(exist_ok=True)
    cards = [
        card
        for card in progress(
            features.cards(SNIPPETS), "export", unit="feat", total=features.postings.n_features
        )
        if card["snippets"]
    ]
    paths = []
    for number, start in enumerate(range(0, len(cards), UPLOAD)):
        paths.append(folder / "upload" / f"upload-{number:05d}.json")
        write_json(
            paths[-1],
            {
                "modelId": model,
                "source": source,
                "features": [
                    upload_feature(features, card) for card in cards[start : start + UPLOAD]
                ],
            },
        )
    key, told = {"modelId": model, "layer": source}, imported_explanations(run)
    tables = {
        "features": lambda part: (feature_row(key, card) for card in part),
        "activations": lambda part: (row for card in part for row in activation_rows(key, card)),
        "explanations": lambda part: (
            row for card in part for row in explanation_rows(features, key, card, told)
        ),
    }
    for number, start in enumerate(range(0, len(cards), BATCH)):
        for name, rows in tables.items():
            paths.append(bulk / name / f"batch-{number}.jsonl.gz")
            write_lines(paths[-1], rows(cards[start : start + BATCH]))
    for name, row in describing(run, model, source, features.postings.n_features).items():
        paths.append(bulk / f"{name}.jsonl")
        write_lines(paths[-1], [row])
    paths.append(folder / "scores.jsonl")
    write_lines(
        paths[-1],
        (
            key | {"index": str(c["feature"]), "set": label["set"], **score}
            for c in cards
            for label in c["labels"]
            for score in label["scores"]
        ),
    )
    return paths


def source_name(run: Run, n_features: int) -> str:
    """`3-res-2k` for 2,048 features at resid_post.3."""
    site = Site.parse(run.settings.site)
    size = f"{n_features // 1024}k" if n_features >= 1024 else str(n_features)
    return f"{site.layer or 0}-{SHORT.get(site.kind, site.kind)}-{size}"


def upload_feature(features: Features, card: dict) -> dict:
    logits = lambda side: [
        {"token": t["token"], "value": t["logit"]} for t in card[side][:MOST_LOGITS]
    ]
    explanations = [
        {
            "text": label["text"][:LONGEST],
            "methodName": label["set"],
            **({"modelName": name} if (name := llm_of(features, label["set"])) else {}),
        }
        for label in card["labels"]
    ]
    return {
        "index": card["feature"], "density": card["density"], "topLogits": logits("promoted"), "bottomLogits": logits("suppressed"),
        "explanations": explanations, "activations": [upload_activation(card, s) for s in card["snippets"]],
    }  # fmt: skip


def upload_activation(card: dict, snippet: dict) -> dict:
    out = {"tokens": snippet["tokens"], "values": snippet["activations"]}
    if bounds := stratum_bounds(card, snippet["stratum"]):
        out |= dict(zip(("quantileMin", "quantileMax", "quantileFraction"), bounds, strict=True))
    return out


def stratum_bounds(card: dict, name: str) -> tuple[float, float, float] | None:
    """(smallest activation, largest, share of the firings) of a quantile stratum; None for the top."""
    top = card["max"]
    for stratum in card["strata"]:  # from the highest on
        if stratum["stratum"] == name:
            return stratum["low"], top, stratum["firings"]
        top = stratum["low"]
    return None


def llm_of(features: Features, name: str) -> str:
    manifest = features.run.find(f"label/{name}")
    return str(manifest.summary.get("model") or "") if manifest else ""


def feature_row(key: dict, card: dict) -> dict:
    counts, edges = card["histogram"]["counts"], card["histogram"]["edges"]
    return key | {
        "index": str(card["feature"]), "maxActApprox": card["max"], "frac_nonzero": card["density"], "hasVector": False, "vector": [],
        "pos_str": [t["token"] for t in card["promoted"]], "pos_values": [t["logit"] for t in card["promoted"]],
        "neg_str": [t["token"] for t in card["suppressed"]], "neg_values": [t["logit"] for t in card["suppressed"]],
        "topkCosSimIndices": [n["feature"] for n in card["neighbours"]], "topkCosSimValues": [n["cosine"] for n in card["neighbours"]],
        "freq_hist_data_bar_heights": counts, "freq_hist_data_bar_values": [(a + b) / 2 for a, b in zip(edges[:-1], edges[1:], strict=True)],
    }  # fmt: skip


def activation_rows(key: dict, card: dict) -> Iterator[dict]:
    for number, snippet in enumerate(card["snippets"]):
        values, row = snippet["activations"], key | {"index": str(card["feature"])}
        low, high, share = stratum_bounds(card, snippet["stratum"]) or (
            -1.0,
            card["max"],
            -1.0,
        )  # how the format marks the top group
        yield row | {
            "id": identity(row, str(number)), "creatorId": "", "tokens": snippet["tokens"], "values": values, "maxValue": max(values), "minValue": min(values),
            "maxValueTokenIndex": values.index(max(values)), "dataSource": snippet["document"], "dataIndex": str(snippet["start"]),
            "binMin": low, "binMax": high, "binContains": share, "qualifyingTokenIndex": snippet["peak"],
        }  # fmt: skip


def explanation_rows(
    features: Features,
    key: dict,
    card: dict,
    told: dict[tuple[str, int], list[tuple[str, str | None]]],
) -> Iterator[dict]:
    """Every label of a feature; of an imported set every explanation that its source had (`told`), with the model that gave it."""
    row = key | {"index": str(card["feature"])}
    for label in card["labels"]:
        own = [(label["text"], llm_of(features, label["set"]) or None)]
        for number, (text, name) in enumerate(told.get((label["set"], card["feature"]), own)):
            yield row | {
                "id": identity(row, label["set"] + (f"/{number}" if number else "")), "authorId": "", "description": text, "typeName": label["set"],
                "explanationModelName": name,
            }  # fmt: skip


def imported_explanations(run: Run) -> dict[tuple[str, int], list[tuple[str, str | None]]]:
    """{(set, feature): [(text, model or None)]} of imported sets, in the order of the source."""
    out: dict[tuple[str, int], list[tuple[str, str | None]]] = {}
    for unit in run.committed():
        path = run.path / unit / "explanations.parquet"
        if unit.startswith("label/") and path.exists():
            table = pd.read_parquet(path)
            for feature, text, name in zip(
                table["feature"], table["description"], table["explanationModelName"], strict=True
            ):
                out.setdefault((unit.split("/")[1], int(feature)), []).append(
                    (text, name if isinstance(name, str) else None)
                )
    return out


def identity(row: dict, name: str) -> str:
    """An id that the same row always gets."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join([*map(str, row.values()), name])))


def describing(run: Run, model: str, source: str, n_features: int) -> dict[str, dict]:
    """The rows of model, release, source set and source."""
    layer, _, set_name = source.partition("-")
    capture = run.manifest("capture").summary
    named = {"creatorId": "", "creatorName": "", "urls": []}
    return {
        "model": {"id": model, "instruct": False, "creatorId": "", "displayName": model, "displayNameShort": model, "layers": int(layer) + 1, "neuronsPerLayer": 0},
        "release": named | {"name": set_name, "description": f"{n_features} features at {run.settings.site}", "descriptionShort": set_name, "creatorNameShort": ""},
        "sourceset": named | {"modelId": model, "name": set_name, "description": set_name, "type": "sae", "releaseName": set_name},
        "source": {
            "id": source, "modelId": model, "setName": set_name, "creatorId": "", "hasDashboards": True, "visibility": "PRIVATE",
            "dataset": Path(run.settings.corpus).name, "num_prompts": capture.get("rows"), "hasUmap": False, "hasUmapLogSparsity": False, "hasUmapClusters": False,
        },
    }  # fmt: skip


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """JSONL, gzipped where the name says so; equal rows are equal bytes."""
    text = "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows)
    with replacing(path) as temporary:
        temporary.write_bytes(
            gzip.compress(text.encode(), 5, mtime=0) if path.suffix == ".gz" else text.encode()
        )
