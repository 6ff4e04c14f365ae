"""What needs the live subject and SAE for one text: which features fire on it, and clamped continuations kept as experiments."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from core.clamp import clamp_edit, dose_response, paired, resolve
from core.errors import UsageError
from core.files import read_json, write_json
from core.records import Clamp, Site
from core.run import Run
from core.saes import load_sae
from core.subject import Subject, load_subject


@dataclass(frozen=True)
class Reading:
    """Tokens (T,) of a text and every firing on it: position in the text's own tokens, feature, activation."""

    tokens: list[str]
    firings: list[tuple[int, int, float]]


class Live:
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
            raise UsageError("The text is shorter than two tokens, and the first position of a row never fires.", "Give a longer text.")
        f = self.sae.encode(self.subject.read(self.site, torch.tensor([ids]))[0, 1:].float()).cpu()
        positions, features = (f > 0).nonzero(as_tuple=True)
        texts = self.subject.token_texts()
        found = zip(positions.tolist(), features.tolist(), f[positions, features].tolist(), strict=True)
        return Reading([texts[i] for i in ids[1:]], sorted(found, key=lambda firing: (firing[0], -firing[2])))

    @torch.inference_mode()
    def maxima(self, texts: list[str]) -> np.ndarray:
        """The largest activation (texts, F) of every feature in each text, read alone behind BOS; the first position of a row does not count."""
        out = np.zeros((len(texts), self.sae.n_features), np.float32)
        for row, text in enumerate(texts):
            ids = self.subject.prompt_tokens(text)[: self.subject.context]
            if len(ids) > 1:
                out[row] = self.sae.encode(self.subject.read(self.site, torch.tensor([ids]))[0, 1:].float()).amax(0).cpu().numpy()
        return out

    def clamp(self, clamps: list[Clamp], maxima: dict[int, float], prompts: list[str], n_new: int, temperature: float, seeds: list[int]) -> dict:
        """Baseline and clamped continuations of each prompt under each seed, as the record of an experiment."""
        if any(c.feature >= self.sae.n_features for c in clamps):
            raise UsageError(f"There is no feature {max(c.feature for c in clamps)}.", f"The SAE has features 0 to {self.sae.n_features - 1}.")
        resolved = resolve(clamps, maxima)
        pairs = paired(self.subject, self.site, clamp_edit(self.sae, resolved), prompts, n_new, temperature, seeds)
        return {
            "prompt": prompts[0] if len(prompts) == 1 else prompts,
            "clamps": [str(c) for c in clamps], "values": [c.value for c in resolved], "features": [c.feature for c in clamps],
            "baseline": [p.baseline for p in pairs], "clamped": [p.clamped for p in pairs], "prompts": [p.prompt for p in pairs],
            "seeds": [p.seed for p in pairs], "temperature": temperature,
        }  # fmt: skip

    def doses(self, feature: int, maximum: float, doses: list[float], rows: np.ndarray, targets: list[int]) -> list[dict]:
        """Responses as tables: `rows` (R, T) are token ids of one document each, read behind BOS; see `core.clamp.Response`."""
        if maximum <= 0:
            raise UsageError(f"Feature {feature} never fired, so a dose has no unit.", "Choose a feature that fires.")
        first = [] if self.subject.bos is None else [self.subject.bos]
        ids = torch.tensor([first + row for row in rows.tolist()])
        found = dose_response(self.subject, self.site, self.sae, feature, maximum, doses, ids, targets, self.run.settings.seed)
        return [asdict(r) for r in found]


def save_experiment(run: Run, record: dict) -> str:
    """Keep a clamp experiment under the next free number; returns its name inside the run."""
    folder = run.path / "clamps"
    folder.mkdir(exist_ok=True)
    taken = [int(p.stem) for p in folder.glob("[0-9]*.json")]
    name = f"{max(taken, default=0) + 1:04d}.json"
    write_json(folder / name, record)
    return f"clamps/{name}"


def experiments(run: Run) -> list[dict]:
    """All kept clamp experiments, oldest first."""
    return [read_json(p) for p in sorted((run.path / "clamps").glob("[0-9]*.json"))]
