"""Load the subject that a run is about, in the arithmetic that its capture was read in."""

from __future__ import annotations

from core.devices import CLEARLY, bfloat16_gain
from core.progress import say
from core.run import Run
from core.subject.subject import Subject
from core.subject.weights import weight_shape


def load_subject(run: Run, dtype: str = "") -> Subject:
    """The subject that the run is about, its weights in `dtype` or as the run's settings say.

    Where those say auto, the weights have the type in which the run's capture was read, so that no
    later stage changes it, also on another machine; without a capture, the faster one here.
    """
    s, kept = run.settings, run.find("capture")
    kind = dtype or s.dtype
    if kind == "auto" and not dtype and kept is not None:
        kind = kept.summary.get("dtype", kind)
    subject = Subject.load(
        s.subject, s.revision, s.device, kind, s.weights, s.seed, s.trust_remote_code
    )
    if not s.bos:
        subject.bos = None
    if s.dtype == "auto" and kind == "bfloat16" and subject.device.type == "cpu":
        gain = bfloat16_gain(subject.device, weight_shape(subject.model.config))
        if gain < 1 / CLEARLY:
            say(
                f"{run.name} was captured in bfloat16, which is {1 / gain:.1f} times as slow as "
                "float32 on this machine; a new run with --dtype float32 is faster here."
            )
    return subject
