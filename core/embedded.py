"""What comes with the program, by name: subjects, a corpus, autoencoders."""

from __future__ import annotations

import sys
from pathlib import Path

# name -> place under the program's data
SUBJECTS = {"python-7m": "subjects/python-7m"}
CORPORA = {"prompts": "corpus/corpus.jsonl.gz"}
SAES = {"smollm2-135m": "saes/smollm2-135m"}


def data_folder() -> Path:
    """The program's data: beside the code in a checkout, else under the environment."""
    checkout = Path(__file__).resolve().parents[1] / "data"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "brain-surgery"


def find_embedded(table: dict[str, str], name: str) -> str:
    """Where the thing called `name` lies if it comes with the program, else `name` itself.

    A file or folder of that name comes first.
    """
    if name in table and not Path(name).exists():
        return str(data_folder() / table[name])
    return name
