"""Read the documents of a corpus.

A corpus is one of: `prompts`, texts that come with the program; `stdlib`, the standard library of
the running interpreter; a file of one of the forms in `core/text/text_files.py`, or a folder of
them, with `:column` behind it where the text stands under another name;
`hf:name[@config][:split][:column]`, a dataset on the hub or a local folder in the same layout,
which is streamed.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.embedded import CORPORA, find_embedded
from core.errors import UsageError
from core.progress import progress, say
from core.text.forms import Document, LeftOut, text_hash
from core.text.hub_datasets import SPEC, read_dataset
from core.text.spools import DocumentSpool
from core.text.text_files import (
    COMPRESSIONS,
    FORMS,
    TEXTS,
    cut_pieces,
    form_of,
    list_files,
    read_file,
)

__all__ = ["Corpus", "Document", "check_corpus", "read_corpus", "text_hash"]

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
HELP = (
    f"Give prompts, stdlib, a file ({', '.join(FORMS)}, each also {' or '.join(COMPRESSIONS)}), "
    f"a folder of them (PATH:COLUMN names the column of text), or {SPEC}."
)


@dataclass
class Corpus:
    """The documents of a corpus, in order, and what of it was left out.

    `left_out` is complete when the documents have been read.
    """

    documents: Iterable[Document]
    left_out: LeftOut = field(default_factory=LeftOut)
    streamed: bool = False

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)


def check_corpus(spec: str) -> None:
    """Raise UsageError for a local corpus that does not exist or is a file of no known form."""
    if spec == "stdlib" or spec.startswith("hf:"):
        return
    path, _ = _split_column(spec)
    if not path.exists():
        raise UsageError(f"There is no corpus {spec!r}.", HELP)
    if path.is_file() and not form_of(path):
        raise UsageError(f"{path.name} is of no form that can be read.", HELP)


def _split_column(spec: str) -> tuple[Path, str]:
    """(path, column) of a local corpus, `PATH` or `PATH:COLUMN`."""
    path = Path(find_embedded(CORPORA, spec))
    head, _, column = spec.rpartition(":")
    if not path.exists() and head and column and Path(find_embedded(CORPORA, head)).exists():
        return Path(find_embedded(CORPORA, head)), column
    return path, ""


def read_corpus(spec: str, cut: str = "auto", folder: Path | None = None) -> Corpus:
    """All documents of the corpus `spec`.

    A local corpus is ordered by the reversed hash of the text: a document's split depends on the
    first digits of its hash, so a limit on the tokens keeps the shares of the splits. Where it is
    large it waits in a temporary file of `folder`. A dataset on the hub is a stream in its own
    order. `cut` says which text files are cut at their blank lines: yes, no, or auto for long ones
    and one that is the whole corpus; the standard library's for yes alone. Raises UsageError when
    there is no document.
    """
    check_corpus(spec)
    left_out = LeftOut()
    if spec.startswith("hf:"):
        return Corpus(read_dataset(spec, left_out), left_out, streamed=True)
    if spec == "stdlib":
        found = _cut_each(_read_stdlib()) if cut == "yes" else _read_stdlib()
    else:
        found = _read_path(*_split_column(spec), left_out, cut)
    documents = DocumentSpool(folder)
    for document in progress(found, "find", unit="doc"):
        documents.add(document)
    if not len(documents):
        raise UsageError(
            f"The corpus {spec!r} is empty: {left_out.line()}.", left_out.advice() or HELP
        )
    return Corpus(documents, left_out)


def _read_path(path: Path, column: str, left_out: LeftOut, cut: str) -> Iterator[Document]:
    files = [path] if path.is_file() else list_files(path)
    choice = {"yes": True, "no": False}.get(cut)
    if cut == "auto" and len(files) == 1:
        choice = True
    n_cut, made = 0, 0
    for file in files:
        found = 0
        for document in read_file(file, left_out, choice, column):
            found += 1
            yield document
        if form_of(file) in TEXTS and found > 1:
            n_cut, made = n_cut + 1, made + found
    if n_cut:
        say(
            f"{n_cut:,} text file{'s are' if n_cut > 1 else ' is'} cut at blank lines into "
            f"{made:,} documents; --cut no keeps each whole."
        )


def _cut_each(documents: Iterable[Document]) -> Iterator[Document]:
    """The pieces of each document, numbered from 1 behind its name; itself where it has but one."""
    for whole in documents:
        pieces = list(cut_pieces((whole.text,)))
        if len(pieces) < 2:
            yield whole
        else:
            yield from (Document(f"{whole.name}:{i}", p) for i, p in enumerate(pieces, 1))


def _read_stdlib() -> Iterator[Document]:
    """The .py files of the standard library, except tests and generated tables; its help topics."""
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
