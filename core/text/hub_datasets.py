"""Stream a dataset of the Hugging Face hub, or a local folder in the same layout.

It is named `hf:name[@config][:split][:column]`. What is missing is answered with what there is: the
configs, the splits or the columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from core.errors import NotReady, UsageError
from core.progress import say
from core.text.forms import COLUMNS, Document, LeftOut, Unusable, is_column, make_document

IDLE = 10_000  # records in a row without a document, after which a stream is not read on
SPEC = "hf:name[@config][:split][:column]"


@dataclass(frozen=True)
class DatasetName:
    """What `hf:name[@config][:split][:column]` says; empty where it says nothing."""

    name: str
    config: str
    split: str
    column: str

    @classmethod
    def parse(cls, spec: str) -> DatasetName:
        # a colon within brackets, as in train[:100], parts nothing
        parts = re.split(r":(?![^\[]*\])", spec.removeprefix("hf:"))
        whole, split, column = (*parts, "", "")[:3]
        name, _, config = whole.partition("@")
        return cls(name, config, split or "train", column)


def read_dataset(spec: str, left_out: LeftOut) -> Iterator[Document]:
    """Stream the documents of a dataset; records without text are counted in `left_out`.

    Raises UsageError for a dataset, config, split or column that there is not, naming those that
    there are, and NotReady when the hub does not answer.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    wanted = DatasetName.parse(spec)
    datasets.disable_progress_bars()
    try:
        stream = datasets.load_dataset(
            wanted.name, wanted.config or None, split=wanted.split, streaming=True
        )
        idle = 0
        for number, record in enumerate(stream):
            if not number:
                _check_column(wanted, list(record))
            try:
                document = make_document(f"{wanted.name}:{number}", record, wanted.column)
            except Unusable as error:
                left_out.add(error.reason, error.example, advice=error.advice)
                idle += 1
                if idle == IDLE:
                    say(
                        f"{IDLE:,} records in a row hold no document; the stream is read no further"
                    )
                    return
                continue
            idle = 0
            yield document
    except (ConnectionError, HfHubHTTPError) as error:
        raise NotReady(
            f"The dataset {wanted.name!r} cannot be reached: {_first_line(error)}",
            "Check the connection; set HF_TOKEN if it is gated.",
        ) from None
    except (
        datasets.exceptions.DatasetsError,
        FileNotFoundError,
        ValueError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise UsageError(
            f"The dataset {wanted.name!r} cannot be read: {_first_line(error)}",
            _tell_what_there_is(wanted),
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_column(wanted: DatasetName, columns: list[str]) -> None:
    if wanted.column and wanted.column not in columns:
        raise UsageError(
            f"The records of {wanted.name!r} have no text under {wanted.column!r}.",
            f"They have: {', '.join(columns)}.",
        )
    if not wanted.column and not any(map(is_column, columns)):
        raise UsageError(
            f"The records of {wanted.name!r} have no column {' or '.join(COLUMNS)}.",
            f"Name one of {', '.join(columns)}: {SPEC}.",
        )


def _tell_what_there_is(wanted: DatasetName) -> str:
    """The configs or splits that the dataset has, if it can say them, and the form of a name."""
    import datasets

    def ask(question: Callable[..., list[Any]], *names: str) -> list[str]:
        try:
            return [str(answer) for answer in question(*names)]
        except Exception:  # the library raises whatever its builders raise
            return []

    configs = ask(datasets.get_dataset_config_names, wanted.name)
    if configs and wanted.config not in configs and (wanted.config or len(configs) > 1):
        return f"Its configs are {', '.join(configs)}: {SPEC}."
    chosen = [wanted.config] if wanted.config else configs[:1]
    splits = ask(datasets.get_dataset_split_names, wanted.name, *chosen)
    if splits and wanted.split not in splits:
        return f"Its splits are {', '.join(splits)}: {SPEC}."
    return f"Check its name: {SPEC}."
