"""Documents of text, read from a corpus.

Corpora: `stdlib` (the running interpreter's own standard library); a .txt file (one document); a .jsonl file (one document a line, under
"text" or "prompt", or a conversation under "messages": role and content each); a .parquet file (a column of that name); a folder of such files;
`hf:name[:split][:column]`, a dataset of the hub or a local folder in its layout, streamed.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import NotReady, UsageError

SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "encodings",
    "site-packages",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
    "turtledemo",
    "__pycache__",
}
TABLES = {"stringprep.py", "entities.py"}  # generated tables
SUFFIXES = (".txt", ".jsonl", ".parquet")
COLUMNS = (
    "text",
    "prompt",
    "messages",
)  # where a record keeps its text, or its turns, in the order of preference
HELP = (
    "Give stdlib, a .txt, .jsonl or .parquet file, a folder of them, or hf:name[:split][:column]."
)


@dataclass(frozen=True)
class Document:
    """`turns` are (role, content) of a conversation; `spans`, where not None, the character ranges of `text` that count."""

    name: str
    text: str
    turns: tuple[tuple[str, str], ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None


def text_hash(text: str) -> str:
    """SHA-256 of the text with case and runs of white space folded."""
    return hashlib.sha256(" ".join(text.split()).lower().encode()).hexdigest()


def check_corpus(spec: str) -> None:
    """Raise UsageError for a corpus that cannot be there."""
    if spec != "stdlib" and not spec.startswith("hf:") and not Path(spec).exists():
        raise UsageError(f"There is no corpus {spec!r}.", HELP)


def read_corpus(spec: str) -> Iterable[Document]:
    """All documents of the corpus `spec`: a list in the order of their text's hash, or, of a dataset on the hub, a stream in its own
    order. Raises UsageError when there are none."""
    check_corpus(spec)
    if spec.startswith("hf:"):
        return _dataset(spec)
    if spec == "stdlib":
        documents = list(_stdlib())
    else:
        path = Path(spec)
        files = (
            [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
        )
        documents = [d for file in files for d in _read_file(file)]
    if not documents:
        raise UsageError(f"The corpus {spec!r} is empty.", HELP)
    return sorted(
        documents, key=lambda d: (text_hash(d.text)[::-1], d.name)
    )  # reversed: a limit must not choose a split


# ---------------------------------------------------------------- files


def _read_file(path: Path) -> Iterator[Document]:
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        text = path.read_bytes().decode(
            "utf-8"
        )  # read_text would turn \r\n into \n, and offsets would not be the file's
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}.", "Convert it to UTF-8."
        ) from None
    if path.suffix != ".jsonl":
        yield Document(path.name, text)
        return
    for number, line in enumerate(
        text.split("\n"), 1
    ):  # a JSON string may hold U+2028, at which splitlines cuts
        if not line.strip():
            continue
        try:
            yield _document(f"{path.name}:{number}", json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"{path}, line {number}, is not a JSON object with a string under 'text' or 'prompt', or turns under 'messages'.",
                "Mend the line, or take it out.",
            ) from None


def _read_parquet(path: Path) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UsageError(
            f"{path} is not a Parquet file: {error}.", "Take it out of the corpus."
        ) from None
    column = next((c for c in COLUMNS if c in file.schema_arrow.names), None)
    if column is None:
        raise UsageError(
            f"{path} has columns {file.schema_arrow.names}.",
            f"One of them must be {' or '.join(COLUMNS)}.",
        )
    number = 0
    for batch in file.iter_batches(columns=[column]):
        for record in batch.to_pylist():
            number += 1
            if record[column] is not None:
                yield _document(f"{path.name}:{number}", record)


def _document(name: str, record: dict, column: str = "") -> Document:
    """The document of one record; raises KeyError or TypeError where it has none."""
    content = record[column or next((c for c in COLUMNS if c in record), "text")]
    if isinstance(content, str):
        return Document(name, content)
    turns = tuple((turn["role"], turn["content"]) for turn in content)
    if not turns or not all(isinstance(part, str) for turn in turns for part in turn):
        raise TypeError
    return Document(name, "\n".join(text for _, text in turns), turns)


# ---------------------------------------------------------------- the hub, the standard library


def _dataset(spec: str) -> Iterator[Document]:
    """Records of hf:name[:split][:column] as they stream in; raises UsageError or NotReady when they cannot be had."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    name, split, column = (*spec.removeprefix("hf:").split(":"), "", "")[:3]
    datasets.disable_progress_bars()
    try:
        stream = datasets.load_dataset(name, split=split or "train", streaming=True)
        for number, record in enumerate(stream):
            yield _document(f"{name}:{number}", record, column)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"The dataset {name!r} cannot be read: {str(error).splitlines()[0]}",
            "Check name and split: hf:name[:split][:column].",
        ) from None
    except (ConnectionError, HfHubHTTPError) as error:
        raise NotReady(
            f"The dataset {name!r} cannot be reached: {str(error).splitlines()[0]}",
            "Check the connection; set HF_TOKEN if it is gated.",
        ) from None
    except (KeyError, TypeError):
        raise UsageError(
            f"A record of {name!r} has no text under {column or ' or '.join(COLUMNS)!r}.",
            "Name its column: hf:name:split:column.",
        ) from None


def _stdlib() -> Iterator[Document]:
    """The .py files of the standard library, without tests and generated tables; the help topics as one document each."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if (
            SKIPPED & set(inside.parts)
            or path.name in TABLES
            or path.name.startswith("_sysconfigdata")
            or inside.parts[0].startswith("config-")
        ):
            continue
        yield Document(str(inside), path.read_text(encoding="utf-8", errors="replace"))
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(f"topics/{name}", text)
