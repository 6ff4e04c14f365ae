"""What needs the live subject and SAE: which features fire on a text, clamped continuations, doses, and the same again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch

from core.clamps.clamp import Edits, Sampling, clamp_edit, paired, resolve, where_to_clamp
from core.clamps.doses import DoseData, Doses, at_dose_one
from core.effects.effects import clamped_texts, maxima
from core.errors import NotReady, UsageError
from core.records import Clamp, Site
from core.run import Run
from core.saes import load_sae
from core.subject.subject import Subject, load_subject


@dataclass(frozen=True)
class Reading:
    """Tokens (T,) of a text and every firing on it: position in the text's own tokens, feature, activation."""

    tokens: list[str]
    firings: list[tuple[int, int, float]]


@dataclass(frozen=True)
class Positions:
    """Where clamps hold: `positions` all, prompt or generated; `at` a regular expression that a token's text must match."""

    positions: str = "all"
    at: str = ""


class LoadedModel:
    """The subject and the SAE of a run, loaded once."""

    def __init__(self, run: Run, subject: Subject | None = None):
        self.run = run
        self.sae = load_sae(run.folder("train"))
        self.subject = subject or load_subject(run)
        self.site = Site.parse(run.settings.site)
        self.sae.to(self.subject.device)

    @torch.inference_mode()
    def read(self, text: str) -> Reading:
        """Firings on `text`, read behind BOS; the first position of the row is never a firing. Cut at the subject's context."""
        ids = self.subject.prompt_tokens(text)[: self.subject.context]
        if len(ids) < 2:
            raise UsageError(
                "The text is shorter than two tokens, and the first position of a row never fires.",
                "Give a longer text.",
            )
        f = self.sae.encode(self.subject.read(self.site, torch.tensor([ids]))[0, 1:].float()).cpu()
        positions, features = (f > 0).nonzero(as_tuple=True)
        texts = self.subject.token_texts()
        found = zip(
            positions.tolist(), features.tolist(), f[positions, features].tolist(), strict=True
        )
        return Reading(
            [texts[i] for i in ids[1:]], sorted(found, key=lambda firing: (firing[0], -firing[2]))
        )

    @torch.inference_mode()
    def maxima(self, texts: list[str]) -> np.ndarray:
        """The largest activation (texts, F) of every feature in each text, read alone behind BOS; the first position of a row does not count."""
        out = np.zeros((len(texts), self.sae.n_features), np.float32)
        for row, text in enumerate(texts):
            ids = self.subject.prompt_tokens(text)[: self.subject.context]
            if len(ids) > 1:
                out[row] = (
                    self.sae.encode(
                        self.subject.read(self.site, torch.tensor([ids]))[0, 1:].float()
                    )
                    .amax(0)
                    .cpu()
                    .numpy()
                )
        return out

    def clamped_texts(self, features: list[int], times: float) -> dict[int, list[str]]:
        """For each feature, neutral prefixes continued while it is held at `times` its maximum."""
        largest = maxima(self.run, self.sae.n_features)
        return clamped_texts(
            self.subject, self.site, self.sae, {f: float(times * largest[f]) for f in features}
        )

    # ------------------------------------------------------------ clamps

    def clamp(
        self,
        clamps: list[Clamp],
        maxima: dict[int, float],
        writing: Sampling,
        places: Positions = Positions(),
        also: tuple = (),
        seconds: float = math.inf,
    ) -> dict:  # noqa: B008 - frozen
        """Baseline and clamped continuations of each prompt under each seed, as the record of an experiment.

        `also` holds (other Live, its clamps, their maxima) for clamps at the sites of other runs of the same subject. Raises UsageError
        after `seconds`.
        """
        edit, resolved = self.edit(clamps, maxima)
        others = [(live, *live.edit(theirs, known)) for live, theirs, known in also]
        for live, _, _ in others:
            if live.site == self.site:
                raise UsageError(
                    f"{live.run.name} reads the same site {self.site}.",
                    "Clamps of other runs must sit at other sites.",
                )
        edits = Edits(
            edit,
            where_to_clamp(self.subject, places.positions, places.at),
            tuple((live.site, e) for live, e, _ in others),
        )
        pairs = paired(self.subject, self.site, edits, writing, seconds)
        return {
            "clamps": [str(c) for c in clamps], "values": [c.value for c in resolved], "features": [c.feature for c in clamps],
            "also": [{"run": live.run.name, "clamps": [asdict(c) for c in r]} for live, _, r in others],
            "baseline": [p.baseline for p in pairs], "clamped": [p.clamped for p in pairs], "prompts": [p.prompt for p in pairs],
            "seeds": [p.seed for p in pairs], "temperature": writing.temperature, "tokens": writing.tokens, **asdict(places),
            "resolved": [asdict(c) for c in resolved], "sae": self.run.manifest("train").key,
        }  # fmt: skip

    def edit(self, clamps: list[Clamp], maxima: dict[int, float]):
        """(the edit, the clamps in SAE units); UsageError for a feature that the SAE does not have."""
        if any(c.feature >= self.sae.n_features for c in clamps):
            raise UsageError(
                f"There is no feature {max(c.feature for c in clamps)}.",
                f"The SAE has features 0 to {self.sae.n_features - 1}.",
            )
        resolved = resolve(clamps, maxima)
        return clamp_edit(self.sae, resolved), resolved

    def replay(self, record: dict) -> dict:
        """The texts of a kept experiment made again from what it recorded: same values, prompts, seeds and places."""
        if record.get("sae") != self.run.manifest("train").key:
            raise NotReady(
                "The experiment was made with another autoencoder than the run has now.",
                "Clamp anew with the same flags.",
            )
        others = tuple(
            (LoadedModel(Run.open(o["run"]), self.subject), [Clamp(**c) for c in o["clamps"]], {})
            for o in record["also"]
        )
        prompts, seeds = (
            list(dict.fromkeys(record["prompts"])),
            tuple(dict.fromkeys(record["seeds"])),
        )
        writing = Sampling(prompts, record["tokens"], record["temperature"], seeds)
        return self.clamp(
            [Clamp(**c) for c in record["resolved"]],
            {},
            writing,
            Positions(record["positions"], record["at"]),
            others,
        )

    def doses(
        self,
        clamps: list[Clamp],
        maxima: dict[int, float],
        doses: list[float],
        bench: dict,
        places: Positions = Positions(),
    ) -> dict:  # noqa: B008 - frozen
        """Dose and response of clamps together, see `core.doses`. `bench` holds rows (R, T) of token ids of one document each, read
        behind BOS, targets, prompts, tokens, seeds and others, features of like density."""
        first = [] if self.subject.bos is None else [self.subject.bos]
        rows = torch.tensor([first + row for row in np.asarray(bench["rows"]).tolist()])
        writing = Sampling(bench["prompts"], bench["tokens"], 0.7, tuple(range(bench["seeds"])))
        where = where_to_clamp(self.subject, places.positions, places.at)
        bench = DoseData(rows, bench["targets"], writing, bench["others"], self.run.settings.seed)
        return Doses(
            self.subject, self.site, self.sae, at_dose_one(clamps, maxima), maxima, bench, where
        ).measure(doses)
