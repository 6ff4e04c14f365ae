"""Find a subject by its name: embedded, SmolLM2, a GGUF file, a folder, or one on the hub."""

from __future__ import annotations

from pathlib import Path

from core.embedded import SUBJECTS, find_embedded
from core.subject.gguf import gguf_folder, is_gguf
from core.subject.smollm2 import smollm2_folder


def find_subject(name: str) -> str:
    """Where the subject `name` lies: an embedded one, SmolLM2 or a GGUF file as a folder, others as
    named.

    A folder of that name comes first. Raises UsageError and NotReady as `gguf` and `smollm2` say.
    """
    if is_gguf(name):
        return str(gguf_folder(name))
    if Path(name).is_dir():
        return name
    return smollm2_folder() if name == "smollm2" else find_embedded(SUBJECTS, name)
