"""Memory and speed of capture, adopt and index with a loaded SAE and no activation store, on the
embedded subject.

    python tests/benchmarks/scale.py --tokens 500000 10000000 --features 24576 [--activation topk]
    python tests/benchmarks/scale.py --tokens 1000000 10000000 --tiny

The text is Python source of the packages installed here, four times over where there is too little
of it; the SAE is a random JumpReLU whose thresholds let about 50 features fire on a token, or with
`--activation topk` a random TopK of 50. Each stage is a process of its own; its anonymous memory is
sampled five times a second, and its processor time counted, which other work on the machine does
not change. With several numbers of tokens, what grows with them is seen. `--tiny` takes a subject of
one layer and width 16, and a TopK of 4 of its 64 features, so that the passes cost little.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
CHARACTERS = 3.6  # a token of the embedded subject, about


def write_corpus(path: pathlib.Path, n_tokens: int) -> None:
    """Source files as JSON lines until they hold about `n_tokens`; a second copy of a file gets a
    line in front, so that it counts.
    """
    held, copy = 0.0, 0
    with open(path, "w", encoding="utf-8") as out:
        while held < n_tokens * CHARACTERS:
            for file in sorted(pathlib.Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
                text = f"# copy {copy}\n" * bool(copy) + file.read_text(
                    encoding="utf-8", errors="replace"
                )
                out.write(json.dumps({"text": text}) + "\n")
                held += len(text)
                if held >= n_tokens * CHARACTERS:
                    return
            copy += 1


def write_tiny(subject: pathlib.Path, sae: pathlib.Path) -> None:
    """A subject of one layer with random weights and the embedded subject's tokenizer, and a random
    TopK autoencoder of 64 features for it.
    """
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from core.saes import SAE, SAEConfig

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "subjects" / "python-7m")
    tokenizer.save_pretrained(subject)
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 1, "n_positions": 256}
    bos = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), **sizes, **bos)
    GPT2LMHeadModel(config).save_pretrained(subject)
    directions = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
    tensors = {
        "W_enc": directions.T.contiguous(),
        "b_enc": torch.zeros(64),
        "W_dec": directions,
        "b_dec": torch.zeros(16),
    }
    sae.mkdir()
    SAE(SAEConfig("random", "topk", 4), tensors).save(sae)


def write_sae(folder: pathlib.Path, n_features: int, activation: str) -> None:
    """A random SAE for layer 3 of the embedded subject that fires about 50 times a token."""
    import torch

    from core.records import Site
    from core.saes import SAE, SAEConfig
    from core.subject.subject import Subject

    subject = Subject.load("python-7m")
    x = subject.read(
        Site.parse("resid_post.3"),
        torch.tensor([subject.prompt_tokens((ROOT / "main.py").read_text())[:256]]),
    )[0, 1:].float()
    directions = torch.nn.functional.normalize(
        torch.randn(n_features, x.shape[1], generator=torch.Generator().manual_seed(0)), dim=1
    )
    tensors = {
        "W_enc": directions.T.contiguous(),
        "b_enc": torch.zeros(n_features),
        "W_dec": directions,
        "b_dec": x.mean(0),
    }
    folder.mkdir()
    if activation == "topk":
        SAE(SAEConfig("random", "topk", 50), tensors).save(folder)
        return
    threshold = ((x - x.mean(0)) @ directions.T).quantile(1 - 50 / n_features)
    tensors["threshold"] = threshold.clamp(min=0).expand(n_features).clone()
    SAE(SAEConfig("random", "jumprelu"), tensors).save(folder)


def anonymous_mb(pid: int) -> float:
    """Anonymous memory of a process, MB; 0 when it has gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(*arguments: str) -> tuple[float, float, float, str]:
    """(seconds, processor seconds, peak anonymous MB, what it said of the disk beforehand) of one
    command of main.py.
    """
    start, before, peak = time.perf_counter(), processor_seconds(), 0.0
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            cwd=ROOT,
            stderr=told,
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None:
            peak = max(peak, anonymous_mb(process.pid))
            time.sleep(0.2)
        told.seek(0)
        lines = told.read().splitlines()
    if process.returncode:
        raise SystemExit(
            f"main.py {' '.join(arguments)} ended with {process.returncode}: {lines[-2:]}"
        )
    said = next((line for line in lines if "MB on disk" in line), "")
    return time.perf_counter() - start, processor_seconds() - before, peak, said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[500_000, 10_000_000])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--capture-only", action="store_true")
    parser.add_argument("--features", type=int, default=24_576)
    parser.add_argument("--activation", choices=("jumprelu", "topk"), default="jumprelu")
    asked = parser.parse_args()
    place = pathlib.Path(tempfile.mkdtemp(dir=ROOT / "data" / "runs", prefix="scale-"))
    try:
        if asked.tiny:
            write_tiny(place / "subject", place / "sae")
        else:
            write_sae(place / "sae", asked.features, asked.activation)
        about = ["--subject", str(place / "subject")] if asked.tiny else []
        for n_tokens in asked.tokens:
            write_corpus(place / "corpus.jsonl", n_tokens)
            run = str(place / f"run-{n_tokens}")
            measured(
                "new",
                run,
                "--corpus",
                str(place / "corpus.jsonl"),
                "--sae",
                str(place / "sae"),
                "--site",
                "resid_post.0" if asked.tiny else "resid_post.3",
                *about,
            )
            for verb in ("capture", "train", "index")[: 1 if asked.capture_only else 3]:
                seconds, processor, peak, said = measured(verb, run)
                manifest = json.loads((pathlib.Path(run) / verb / "manifest.json").read_text())
                n, size = (
                    manifest["summary"].get("tokens", 0),
                    sum(f.stat().st_size for f in (pathlib.Path(run) / verb).iterdir()),
                )
                print(
                    f"{verb:8} {n:12,} tokens {seconds:7.0f} s {n / seconds:10,.0f} tok/s {n / processor:10,.0f} tok per processor s",
                    end=" ",
                )
                print(
                    f"{peak:7,.0f} MB anonymous {size / 1e6:7,.0f} MB on disk; said: {said}",
                    flush=True,
                )
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
