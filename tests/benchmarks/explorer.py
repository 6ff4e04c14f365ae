"""Size of the explorer at 16,384 features, and how fast its map is drawn: a made-up run with a
vocabulary of 50,257.

    python tests/benchmarks/explorer.py [--features 16384] [--folder FOLDER] [--draw]

Tokens are drawn one by one from a Zipf law, so they compress worse than text does; labels are rules
of real length. --draw also opens the page in headless Chromium (needs what `make test-browser`
installs) and prints milliseconds for a whole drawing and for one step of a pan.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from autointerp.features import Features  # noqa: E402
from core.activations.layout import Layout, write_layout  # noqa: E402
from core.files import (
    write_array,  # noqa: E402
    write_json,  # noqa: E402
    write_table,  # noqa: E402
)
from core.run import Run  # noqa: E402
from core.settings import (
    CaptureSettings,  # noqa: E402
    RunSettings,  # noqa: E402
)
from figures.explorer.site import export_site  # noqa: E402

VOCABULARY, TOKENS, ROW, PER_FEATURE = 50_257, 1_000_000, 256, 600
LETTERS = np.array(list("etaoinshrdlucmfwypvbgkqjxz_()"))


def made_run(folder: Path, n_features: int, rng: np.random.Generator) -> Run:
    run = Run.create(
        str(folder / "run"), RunSettings(subject="made-up", site="resid_post.6", corpus="made-up")
    )
    words = sorted(
        {
            ("" if rng.random() < 0.4 else " ") + "".join(rng.choice(LETTERS, rng.integers(1, 9)))
            for _ in range(3 * VOCABULARY)
        }
    )
    words = [words[i] for i in rng.permutation(len(words))[:VOCABULARY]]
    write_capture(run, words, rng)
    write_index(run, n_features, rng)
    some = lambda n: [words[i] for i in np.minimum(rng.zipf(1.3, n), VOCABULARY - 1)]
    effects = pd.DataFrame({"feature": range(n_features)})
    for side, sign in (("promoted", 1.0), ("suppressed", -1.0)):
        effects[f"{side}_id"] = [
            rng.integers(0, VOCABULARY, 20).tolist() for _ in range(n_features)
        ]
        effects[side] = [[words[i] for i in ids] for ids in effects[f"{side}_id"]]
        effects[f"{side}_logit"] = [
            (sign * np.sort(rng.uniform(2, 12, 20))[::-1]).tolist() for _ in range(n_features)
        ]
    commit(run, "effects", {"effects.parquet": effects}, ["index"])
    quoted = lambda w: '"' + w.strip().replace('"', "") + '"'
    texts = [
        f"{quoted(a)}, {quoted(b)} or {quoted(c)} after {quoted(d)}; {quoted(e)} (weak)"
        for a, b, c, d, e in (some(5) for _ in range(n_features))
    ]
    labels = pd.DataFrame(
        {
            "feature": range(n_features),
            "set": "rules",
            "text": texts,
            "confidence": rng.random(n_features),
            "kind": rng.choice(["token", "context", "n-gram"], n_features),
        }
    )
    commit(run, "label/rules", {"labels.parquet": labels}, ["index"])
    score = rng.random(n_features)
    scores = pd.DataFrame({"feature": range(n_features), "set": "rules", "kind": "simulation", "value": score, "undefined": "", "low": score - 0.1, "high": score + 0.1, "null": 0.01, "n_tokens": 2000, "n_documents": 30})  # fmt: skip
    commit(run, "score/rules/simulation", {"scores.parquet": scores}, ["label/rules"])
    write_cluster(run, n_features, words, rng)
    return run


def commit(run: Run, unit: str, files: dict, inputs: list[str]) -> None:
    work = run.begin(unit, 1, {}, inputs)
    for name, value in files.items():
        if isinstance(value, pd.DataFrame):
            write_table(work.folder / name, value)
        elif isinstance(value, np.ndarray):
            write_array(work.folder / name, value)
        else:
            write_json(work.folder / name, value)
    work.commit({})


def write_capture(run: Run, words: list[str], rng: np.random.Generator) -> None:
    ids = np.minimum(rng.zipf(1.15, TOKENS) - 1, VOCABULARY - 1).astype(np.uint32)
    rows = np.arange(0, TOKENS + 1, ROW)
    n_documents = len(rows) - 1
    work = run.begin("capture", 1, CaptureSettings(), [])
    ends = np.cumsum([len(words[i]) for i in ids])
    starts = np.r_[0, ends[:-1]]
    first = np.repeat(starts[rows[:-1]], ROW)[:TOKENS]
    tables = {
        "ids": ids[: rows[-1]], "starts": (starts - np.r_[first, starts[len(first) :]])[: rows[-1]].astype(np.uint32), "ends": (ends - np.r_[first, starts[len(first) :]])[: rows[-1]].astype(np.uint32),
        "row_offsets": rows, "row_document": np.arange(n_documents), "document_offsets": rows, "split": rng.choice(3, n_documents, p=(0.6, 0.1, 0.3)).astype(np.uint8),
        "copied": np.zeros(rows[-1], bool), "counted": np.ones(rows[-1], bool), "text_offsets": np.r_[starts[rows[:-1]], ends[rows[-1] - 1]], "first": np.full(n_documents, -1),
    }  # fmt: skip
    for name, array in tables.items():
        write_array(work.folder / f"{name}.npy", array)
    (work.folder / "text.txt").write_text(
        "".join(words[i] for i in ids[: rows[-1]]), encoding="utf-8"
    )
    write_json(
        work.folder / "documents.json", [f"module_{i % 97}/file_{i}.py" for i in range(n_documents)]
    )
    write_json(work.folder / "vocabulary.json", words)
    write_layout(work.folder, Layout(True, "float32", 1, [0, int(rows[-1])]))
    work.commit({"tokens": int(rows[-1])})


def write_index(run: Run, n_features: int, rng: np.random.Generator) -> None:
    """Each feature fires on some places of one token, and here and there."""
    ids = np.load(run.path / "capture" / "ids.npy")
    order = np.argsort(ids, kind="stable")
    offsets = np.searchsorted(ids[order], np.arange(VOCABULARY + 1))
    places, values = [], []
    for _ in range(n_features):
        token = min(int(rng.zipf(1.2)), VOCABULARY - 1)
        own = order[offsets[token] : offsets[token + 1]][:PER_FEATURE]
        where = np.unique(np.r_[own, rng.integers(0, len(ids), PER_FEATURE // 3)])
        places.append(where.astype(np.uint32))
        values.append(rng.gamma(2.0, 2.0, len(where)).astype(np.float32))
    commit(run, "index", {
        "offsets-00000.npy": np.r_[0, np.cumsum([len(p) for p in places])], "positions-00000.npy": np.concatenate(places), "firings-00000.npy": np.concatenate(values),
        "token_offsets.npy": offsets, "token_ordinals.npy": order.astype(np.uint32),
    }, ["capture"])  # fmt: skip


def write_cluster(run: Run, n_features: int, words: list[str], rng: np.random.Generator) -> None:
    n_groups = max(2, n_features // 40)
    centres, group = rng.normal(size=(n_groups, 2)) * 10, rng.integers(-1, n_groups, n_features)
    place = centres[group] + rng.normal(size=(n_features, 2)) * 0.4
    table = pd.DataFrame(
        {
            "feature": range(n_features),
            "status": "alive",
            "x": place[:, 0],
            "y": place[:, 1],
            "group": group,
        }
    )
    commit(run, "cluster", {
        "features.parquet": table, "groups.json": [{"group": g, "hue": g % 9} for g in range(n_groups)],
        "neighbours.npy": rng.integers(0, n_features, (n_features, 15)), "cosines.npy": np.sort(rng.random((n_features, 15)).astype(np.float32))[:, ::-1],
    }, ["index"])  # fmt: skip
    titles = pd.DataFrame(
        {
            "group": range(n_groups),
            "title": [
                f'words: "{words[g].strip()}", "{words[g + 1].strip()}"' for g in range(n_groups)
            ],
        }
    )
    commit(run, "title", {"titles.parquet": titles}, ["cluster"])


def drawn(site: Path) -> dict:
    """Milliseconds in headless Chromium, without a GPU."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"file://{site}/index.html")
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        median = "(f) => { const t = []; for (let i = 0; i < 15; i++) { const s = performance.now(); f(i); document.getElementById('map').getContext('2d').getImageData(0, 0, 1, 1); t.push(performance.now() - s); } return t.sort((a, b) => a - b)[7]; }"
        found = {
            name: round(page.evaluate(f"({median})({body})"), 1)
            for name, body in (
                ("whole drawing", "() => map.draw()"),
                (
                    "step of a pan",
                    "(i) => { map.centre[0] += 0.001 * (i % 2 ? 1 : -1); map.blit(); }",
                ),
            )
        }
        found["search as you type"] = round(
            page.evaluate(
                f"async () => {{ run.words = await load('words'); search.build(); return ({median})(() => search.run('st')); }}"
            ),
            1,
        )
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--draw", action="store_true")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    run = (
        Run.open(str(folder / "run"))
        if (folder / "run" / "run.json").exists()
        else made_run(folder, given.features, np.random.default_rng(0))
    )
    started = time.time()
    made = export_site(Features(run), folder / "site")
    print(
        f"{given.features} features: {made['files']} files, {made['bytes'] / 1e6:.1f} MB, first paint {made['first_paint_bytes'] / 1e6:.2f} MB, in {time.time() - started:.0f} s"
    )
    if given.draw:
        print({name: f"{ms} ms" for name, ms in drawn(folder / "site").items()})


if __name__ == "__main__":
    main()
