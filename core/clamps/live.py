"""The loaded subject and SAE of a run.

Features active on a text, clamped generation, dose-response, replay of an experiment.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from core.activations.tokenize import spell_prompt
from core.clamps.clamp import (
    Edits,
    Sampling,
    clamp_edit,
    generate_pairs,
    resolve,
    where_to_clamp,
)
from core.clamps.doses import DoseData, Doses, at_dose_one
from core.clamps.experiments import Experiment, OtherClamps
from core.clamps.next_tokens import compare_next_tokens, compare_written
from core.effects.effects import generate_clamped
from core.errors import NotReady, UsageError
from core.firings.postings import maxima
from core.progress import working
from core.records import Clamp, Site
from core.run import Run
from core.saes import SAE
from core.subject.decoding import Edit
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.subject.tap import Tap

DOSE_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Reading:
    """Tokens (T,) of a text and every firing on it.

    A firing is (position in the text's own tokens, feature, activation).
    """

    tokens: list[str]
    firings: list[tuple[int, int, float]]


@dataclass(frozen=True)
class Positions:
    """Where clamps hold.

    `positions` are all, prompt or generated; `at` is a regular expression that a token's text must
    match.
    """

    positions: str = "all"
    at: str = ""


EVERYWHERE = Positions()


# the model of another run, its clamps, and the maxima of their features
AlsoClamped = tuple["LoadedModel", list[Clamp], dict[int, float]]


class LoadedModel:
    """The subject and the SAE of a run, loaded once."""

    def __init__(self, run: Run, subject: Subject | None = None) -> None:
        self.run = run
        with working("load"):
            self.sae = SAE.load(run.folder("train"))
            self.subject = subject or load_subject(run)
        self.site = Site.parse(run.settings.site)  # that is read
        self.place = Site.parse(run.settings.site_out or run.settings.site)  # that is written
        self.tap = Tap(self.subject, self.site) if self.sae.config.transcoder else None
        self.sae.to(self.subject.device)

    @property
    def has_chat_template(self) -> bool:
        """Whether a text can be put into the subject's chat template."""
        return bool(getattr(self.subject.tokenizer, "chat_template", None))

    # ------------------------------------------------------------ reading

    @torch.inference_mode()
    def read(self, text: str) -> Reading:
        """Return the firings on `text`, read after BOS and cut at the subject's context.

        The first position of the row is never a firing. Raises UsageError for a text shorter than
        two tokens.
        """
        ids = self._tokens(text)
        if len(ids) < 2:
            raise UsageError(
                "The text is shorter than two tokens, and the first position of a row never fires.",
                "Give a longer text.",
            )
        f = self._encode(ids)
        positions, features = (f > 0).nonzero(as_tuple=True)
        values = f[positions, features].tolist()
        firings = list(zip(positions.tolist(), features.tolist(), values, strict=True))
        texts = spell_prompt(self.subject, text)[1 : len(ids)]
        return Reading(texts, sorted(firings, key=lambda firing: (firing[0], -firing[2])))

    @torch.inference_mode()
    def maxima(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return the largest activation (texts, F) of every feature in each text.

        Each text is read alone after BOS; the first position of a row does not count.
        """
        out = np.zeros((len(texts), self.sae.n_features), np.float32)
        for row, text in enumerate(texts):
            ids = self._tokens(text)
            if len(ids) > 1:
                out[row] = self._encode(ids).amax(0).numpy()
        return out

    def _tokens(self, text: str) -> list[int]:
        return self.subject.prompt_tokens(text)[: self.subject.context]

    def _encode(self, ids: list[int]) -> torch.Tensor:
        """Return activations (T - 1, F) on the CPU, without the first position."""
        x = self.subject.read(self.site, torch.tensor([ids]))[0, 1:].float()
        return self.sae.encode(x).cpu()

    def clamped_texts(self, features: list[int], times: float) -> dict[int, list[str]]:
        """Return, per feature, neutral prefixes continued with it held at `times` its maximum."""
        largest = maxima(self.run, self.sae.n_features)
        values = {feature: float(times * largest[feature]) for feature in features}
        return generate_clamped(self.subject, self.place, self.sae, values)

    # ------------------------------------------------------------ clamps

    def clamp(
        self,
        clamps: list[Clamp],
        maxima: dict[int, float],
        sampling: Sampling,
        places: Positions = EVERYWHERE,
        also: tuple[AlsoClamped, ...] = (),
        seconds: float = math.inf,
    ) -> Experiment:
        """Generate baseline and clamped continuations of each prompt from each seed.

        `also` holds (other model, its clamps, their maxima) for clamps at the sites of other runs
        of the same subject. Raises UsageError for a feature that does not exist, for two runs at
        one site, and after `seconds`.
        """
        edits, resolved, others = self._edits(clamps, maxima, places, also)
        with self._taps(also):
            pairs = generate_pairs(self.subject, self.place, edits, sampling, seconds)
        return Experiment(
            clamps=tuple(str(clamp) for clamp in clamps),
            features=tuple(clamp.feature for clamp in clamps),
            prompts=tuple(pair.prompt for pair in pairs),
            baseline=tuple(pair.baseline for pair in pairs),
            clamped=tuple(pair.clamped for pair in pairs),
            seeds=tuple(pair.seed for pair in pairs),
            values=tuple(clamp.value for clamp in resolved),
            resolved=tuple(resolved),
            also=others,
            temperature=sampling.temperature,
            tokens=sampling.tokens,
            positions=places.positions,
            at=places.at,
            sae=self.run.manifest("train").key,
        )

    def next_tokens(
        self,
        clamps: list[Clamp],
        maxima: dict[int, float],
        sampling: Sampling,
        places: Positions = EVERYWHERE,
        also: tuple[AlsoClamped, ...] = (),
        n: int = 10,
    ) -> tuple[dict[str, Any], ...]:
        """Compare the `n` likeliest next tokens at the end of each prompt without and with clamps.

        `written` in each entry holds the same at each token of the first seed's clamped text. See
        `core.clamps.next_tokens`; the other arguments are those of `clamp`, and so are the errors.
        Raises UsageError for an `n` below 1.
        """
        if n < 1:
            raise UsageError(f"{n} next tokens are no table.", "Give 1 or more: --logprobs 10")
        edits, _, _ = self._edits(clamps, maxima, places, also)
        with self._taps(also):
            at_end = compare_next_tokens(
                self.subject, self.place, edits, sampling.prompts, n, sampling.tokens
            )
            written = compare_written(self.subject, self.place, edits, sampling, n)
        return tuple(e | {"written": w} for e, w in zip(at_end, written, strict=True))

    @contextlib.contextmanager
    def _taps(self, also: tuple[AlsoClamped, ...]) -> Iterator[None]:
        """Context manager: what transcoders read is seen in every pass."""
        with contextlib.ExitStack() as stack:
            for model in (self, *(model for model, _, _ in also)):
                if model.tap is not None:
                    stack.enter_context(model.tap)
            yield

    def _edits(
        self,
        clamps: list[Clamp],
        maxima: dict[int, float],
        places: Positions,
        also: tuple[AlsoClamped, ...],
    ) -> tuple[Edits, list[Clamp], tuple[OtherClamps, ...]]:
        """Return (what the clamps edit, the run's own in SAE units, those of other runs)."""
        edit, resolved = self.edit(clamps, maxima)
        others = [(model, *model.edit(theirs, known)) for model, theirs, known in also]
        for model, _, _ in others:
            if model.place == self.place:
                raise UsageError(
                    f"{model.run.name} is at the same site {self.place}.",
                    "Clamps of other runs must sit at other sites.",
                )
        edits = Edits(
            edit,
            where_to_clamp(self.subject, places.positions, places.at),
            tuple((model.place, other_edit) for model, other_edit, _ in others),
        )
        named = tuple(OtherClamps(model.run.name, tuple(theirs)) for model, _, theirs in others)
        return edits, resolved, named

    def edit(self, clamps: list[Clamp], maxima: dict[int, float]) -> tuple[Edit, list[Clamp]]:
        """Return (the edit, the clamps in SAE units).

        Raises UsageError for a feature that the SAE does not have.
        """
        self.sae.check_features(clamp.feature for clamp in clamps)
        resolved = resolve(clamps, maxima)
        return clamp_edit(self.sae, resolved, self.tap), resolved

    def replay(self, kept: Experiment) -> Experiment:
        """Generate the texts of a kept experiment again: same values, prompts, seeds and places.

        Raises NotReady where the run has another SAE now.
        """
        if kept.sae != self.run.manifest("train").key:
            raise NotReady(
                "The experiment was made with another autoencoder than the run has now.",
                "Clamp again with the same flags.",
            )
        nothing: dict[int, float] = {}  # kept values are in SAE units
        also = tuple(
            (LoadedModel(Run.open(other.run), self.subject), list(other.clamps), nothing)
            for other in kept.also
        )
        prompts, seeds = list(dict.fromkeys(kept.prompts)), tuple(dict.fromkeys(kept.seeds))
        sampling = Sampling(prompts, kept.tokens, kept.temperature, seeds)
        places = Positions(kept.positions, kept.at)
        return self.clamp(list(kept.resolved), nothing, sampling, places, also)

    def doses(
        self,
        clamps: list[Clamp],
        maxima: dict[int, float],
        doses: list[float],
        bench: dict[str, Any],
        places: Positions = EVERYWHERE,
    ) -> dict[str, Any]:
        """Measure dose and response of clamps together, see `core.clamps.doses.Doses.measure`.

        `bench` holds rows (R, T) of token ids of one document each, read after BOS, targets,
        prompts, tokens, seeds and others, features of similar density.
        """
        first = [] if self.subject.bos is None else [self.subject.bos]
        rows = torch.tensor([first + row for row in np.asarray(bench["rows"]).tolist()])
        seeds = tuple(range(bench["seeds"]))
        sampling = Sampling(bench["prompts"], bench["tokens"], DOSE_TEMPERATURE, seeds)
        data = DoseData(rows, bench["targets"], sampling, bench["others"], self.run.settings.seed)
        where = where_to_clamp(self.subject, places.positions, places.at)
        at_one = at_dose_one(clamps, maxima)
        what = (self.subject, self.place, self.sae, at_one, maxima, data, where, self.tap)
        return Doses(*what).measure(doses)
