"""Subjects and autoencoders that come with the program, by name, wherever it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

from core.subject.gguf import gguf_folder, is_gguf
from core.subject.smollm2 import smollm2_folder

SUBJECTS = {"python-7m": "subjects/python-7m"}  # name -> folder under the program's data


def data_folder() -> Path:
    """The program's data: beside the code in a checkout, else under the environment."""
    checkout = Path(__file__).resolve().parents[2] / "data"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "brain-surgery"


def find_subject(name: str) -> str:
    """Where the subject `name` lies: an embedded one, SmolLM2 or a GGUF file as a folder, others as
    named.

    A folder of that name comes first. Raises UsageError and NotReady as `gguf` and `smollm2` say.
    """
    if is_gguf(name):
        return str(gguf_folder(name))
    if Path(name).is_dir():
        return name
    if name in SUBJECTS:
        return str(data_folder() / SUBJECTS[name])
    return smollm2_folder() if name == "smollm2" else name
