"""Browser tests run with `make test-browser`, which installs what they need; a plain `make test`
does not start a browser.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
collect_ignore_glob = [] if os.environ.get("BROWSER") else ["test_*.py"]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 120_000  # milliseconds: a busy machine is no failure
HOSTILE = [
    "<script>window.hacked=1</script>",
    "</style><b>",
    "\u202eevil",
    "\x00\x1b[31m",
    "<img src=x onerror=window.hacked=1>",
]


@pytest.fixture(scope="session")
def hostile_run(job, tmp_path_factory):
    """A run with hostile text in its vocabulary, a label, a note and a title, and one clamp
    experiment.
    """
    import json

    import pandas as pd

    folder = tmp_path_factory.mktemp("hostile") / "run"
    shutil.copytree(job, folder)
    vocabulary = json.loads((folder / "capture" / "vocabulary.json").read_text(encoding="utf-8"))
    counts = np.diff(np.load(folder / "index" / "token_offsets.npy"))
    for place, text in zip(np.argsort(-counts)[: len(HOSTILE)], HOSTILE, strict=True):
        vocabulary[place] = text
    (folder / "capture" / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    labels = pd.read_parquet(folder / "label" / "rules" / "labels.parquet")
    labels.loc[labels["feature"] == 3, "text"] = HOSTILE[0]
    labels.to_parquet(folder / "label" / "rules" / "labels.parquet")
    titles = pd.read_parquet(folder / "title" / "titles.parquet")
    titles["title"] = HOSTILE[4]
    titles.to_parquet(folder / "title" / "titles.parquet")
    (folder / "notes.jsonl").write_text(
        json.dumps({"feature": 3, "text": HOSTILE[1], "time": "2026-01-01"}) + "\n",
        encoding="utf-8",
    )
    (folder / "clamps").mkdir(exist_ok=True)
    measures = {k: 0.5 for name in ("", "random_", "feature_") for m in ("kl", "target", "loss", "own", "perplexity", "distinct", "found") for k in (f"{name}{m}", f"{name}{m}_low", f"{name}{m}_high")}  # fmt: skip
    record = {"clamps": ["set 3=2x"], "features": [3], "labels": {"3": HOSTILE[0]}, "prompts": [HOSTILE[1]], "baseline": ["the cat sat"], "clamped": [HOSTILE[4]], "seeds": [0],
              "temperature": 0.7, "positions": "all", "doses": [{"dose": d, **measures} for d in (1.0, 2.0)], "dose_texts": [{"prompt": HOSTILE[0], "baseline": "the cat sat", "doses": [{"dose": d, "clamped": f"{HOSTILE[4]} at {d}", "random": HOSTILE[1]} for d in (1.0, 2.0)]}], "useful": {"dose": None, "sought_on": 3, "reported_on": 3}}  # fmt: skip
    likely = [{"token": t, "id": i, "baseline": b, "clamped": c} for i, (t, b, c) in enumerate([(HOSTILE[0], -1.0, -0.5), (" cat", -0.7, -3.0)])]  # fmt: skip
    written = [{"token": t, "id": i, "baseline": -4.0, "clamped": c, "tokens": likely} for t, i, c in [(HOSTILE[0], 0, -0.5), (HOSTILE[4], 9, -1.5), (" the", 8, -6.0)]]  # fmt: skip
    record["next_tokens"] = [{"prompt": HOSTILE[1], "tokens": likely, "written": written}]
    (folder / "clamps" / "0001.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def site(hostile_run, job, tmp_path_factory):
    """The folder of an export of it, with a second run in the same page."""
    from pathlib import Path

    from autointerp.features import Features
    from core.run import Run
    from figures.explorer.site import export_site

    folder = tmp_path_factory.mktemp("site") / "site"
    runs = [Features(Run.open(str(path))) for path in (hostile_run, job)]
    export_site(runs[0], Path(folder), runs[1:])
    return folder


@pytest.fixture(scope="session")
def served(hostile_run):
    """The address of `explore` on that run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "main.py", "explore", str(hostile_run), "--port", str(port)], cwd=ROOT
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(480):
        try:
            urllib.request.urlopen(address + "/", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, request):
    """A page that fails the test on any console message of an error, and remembers every request.

    Parametrise with (theme, width).
    """
    theme, width = getattr(request, "param", ("light", 1280))
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
    made = context.new_page()
    made.set_default_timeout(WAIT)
    made.wrong, made.asked = [], []
    made.on(
        "console", lambda m: made.wrong.append(m.text) if m.type in ("error", "warning") else None
    )
    made.on("pageerror", lambda e: made.wrong.append(str(e)))
    made.on("request", lambda r: made.asked.append(r.url))
    made.on("response", lambda r: made.wrong.append(r.url) if r.status >= 400 else None)
    yield made
    assert made.wrong == []
    assert made.evaluate("window.hacked") is None
    context.close()
