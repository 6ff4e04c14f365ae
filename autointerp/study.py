"""One run in one hand: its stages, features, texts, clamps and exports.

The command line and the live page call these methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from autointerp import pipeline
from autointerp.answers import ClampedTexts, TopFeatures, clamps_of
from autointerp.clamps import DoseBudget, measure_doses
from autointerp.features import Features
from autointerp.labels.notes import add_note
from autointerp.llm.remembered import complete_settings
from autointerp.settings import LLMSettings
from autointerp.whole import make_run
from core.clamps.experiments import Experiment, experiment, save_experiment
from core.errors import UsageError
from core.records import Clamp, Manifest
from core.run import Run
from core.settings import RunSettings, from_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from autointerp.card import Card
    from core.attribution.record import Attribution
    from core.clamps.live import LoadedModel


def open(name: str | Path) -> Study:
    """The run `name` (a name under the runs' folder, or a path).

    Raises NotReady when there is none.
    """
    return Study(Run.open(str(name)))


def new(name: str | Path, **settings: Any) -> Study:
    """A new run: `subject`, `site`, `corpus`, `sae` and the other settings of
    `core.settings.RunSettings`.

    With `sae`, the published SAE's own subject and site are taken where none are given. A run of
    that name about the same thing is opened. Raises UsageError for an unknown setting, a site or a
    corpus that cannot be used, and NotReady when the name is taken by another run.
    """
    if settings.get("sae"):
        from core.training.basis import Basis
        from core.training.published import complete_settings as take_origin

        if Basis.parse(str(settings["sae"])) is None:
            settings, _ = take_origin(settings)
    return create(name, settings)


def create(name: str | Path, settings: dict[str, Any]) -> Study:
    """As `new`, without a look into the published SAE."""
    from core.records import Site
    from core.subject.sites import check_site
    from core.text.documents import check_corpus

    made = from_table(
        RunSettings, {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    )
    if made.sae:
        from core.training.basis import Basis

        if basis := Basis.parse(made.sae):
            read, write = basis.sites(made.site)
            made = replace(made, site=read, site_out=made.site_out or write)
    for site in filter(None, (made.site, made.site_out)):
        check_site(made.subject, made.revision, Site.parse(site))
    if made.site == made.site_out:
        raise UsageError(
            f"The run reads and predicts {made.site}.", "Leave site_out out for an autoencoder."
        )
    check_corpus(made.corpus)
    return Study(Run.create(str(name), made))


class Study:
    """A run and what can be done with it. A stage is a method; inputs that are missing are made
    first.

    Settings that are not given stay as the unit was made, or take their defaults. Each stage
    returns its summary, a dict of key figures. All raise NotReady for a unit that was made with
    other settings, unless `redo` is set, and UsageError for a setting that the stage does not have.
    """

    def __init__(self, run: Run):
        self.run_directory = run

    @property
    def name(self) -> str:
        return self.run_directory.name

    @property
    def path(self) -> Path:
        return self.run_directory.path

    def __repr__(self) -> str:
        about = self.run_directory.settings
        done = ", ".join(self.run_directory.committed()) or "nothing made yet"
        place = f"{about.site} to {about.site_out}" if about.site_out else about.site
        return f"<Study {self.name}: {about.subject} at {place}; {done}>"

    # ------------------------------------------------------------ stages

    def make(self, stage: str, redo: bool = False, **settings: Any) -> Manifest:
        """Make one stage's unit and the inputs it lacks; returns its manifest."""
        run = self.run_directory
        if issubclass(pipeline.STAGES[stage].settings, LLMSettings):
            settings = complete_settings(run, settings)
        chosen = pipeline.settings_as_made(run, stage, settings)
        pipeline.make_inputs(run, stage, chosen)
        more: dict[str, Any] = {}
        if stage == "score" and pipeline.needs_model(chosen):
            more["live"] = self.model
        manifest = pipeline.make(run, stage, chosen, redo, **more)
        self.__dict__.pop("_features", None)
        if stage in ("train", "capture"):
            self.__dict__.pop("model", None)
        return manifest

    def capture(self, redo: bool = False, **settings: Any) -> dict:
        """Documents -> tokens, splits, activations. Settings: `core.settings.CaptureSettings`."""
        return self.make("capture", redo, **settings).summary

    def train(self, redo: bool = False, **settings: Any) -> dict:
        """Activations -> a sparse autoencoder. Settings: `core.settings.TrainSettings`."""
        return self.make("train", redo, **settings).summary

    def sweep(self, redo: bool = False, **settings: Any) -> dict:
        """Several autoencoders in one pass. Settings: `core.settings.SweepSettings`."""
        return self.make("sweep", redo, **settings).summary

    def evaluate(self, redo: bool = False, **settings: Any) -> dict:
        """FVU, L0 and cross-entropy recovered on the test split. Settings: `EvaluateSettings`."""
        return self.make("evaluate", redo, **settings).summary

    def index(self, redo: bool = False, **settings: Any) -> dict:
        """Every firing of every feature, inverted. Settings: `core.settings.IndexSettings`."""
        return self.make("index", redo, **settings).summary

    def effects(self, redo: bool = False, **settings: Any) -> dict:
        """What each feature does to the output. Settings: `core.settings.EffectsSettings`."""
        return self.make("effects", redo, **settings).summary

    def cluster(self, redo: bool = False, **settings: Any) -> dict:
        """Decoder directions -> neighbours, clusters, a map. Settings: `ClusterSettings`."""
        return self.make("cluster", redo, **settings).summary

    def label(self, labels: str = "rules", redo: bool = False, **settings: Any) -> dict:
        """A label for each feature: `rules`, `llm` (give llm_url, budget, ...) or `hand` (your
        notes).
        """
        return self.make("label", redo, labels=labels, **settings).summary

    def score(self, labels: str = "rules", redo: bool = False, **settings: Any) -> dict:
        """How well labels predict unseen documents. Settings: `ScoreSettings`."""
        return self.make("score", redo, labels=labels, **settings).summary

    def title(self, redo: bool = False, **settings: Any) -> dict:
        """Names of clusters. Settings: `TitleSettings`."""
        return self.make("title", redo, **settings).summary

    def relate(self, redo: bool = False, **settings: Any) -> dict:
        """Duplicates, probable splitting and absorption. Settings: `RelateSettings`."""
        return self.make("relate", redo, **settings).summary

    def report(self, redo: bool = False, **settings: Any) -> Path:
        """The report of what is there; returns the path of report.md."""
        self.make("report", redo, **settings)
        return self.path / "report" / "report.md"

    def run(self, controls: bool = True, **where: Any) -> Path:
        """Every stage that is not done, in order; returns the path of the report.

        `controls` also labels and scores random directions and the untrained subject, on a small
        budget (`autointerp.whole`); `where` says where shards are made: see
        `core.settings.ParallelSettings`.
        """
        make_run(self.run_directory, controls=controls, **where)
        self.__dict__.pop("_features", None)
        return self.path / "report" / "report.md"

    # ------------------------------------------------------------ features

    @cached_property
    def _features(self) -> Features:
        return Features(self.run_directory)

    @property
    def known(self) -> Features:
        """All that the committed units say, by feature. Raises NotReady before `index`."""
        return self._features

    @property
    def features(self) -> pd.DataFrame:
        """feature, label, score, null, density, cluster, x, y: one row for each of F features."""
        return self.known.table()

    def __getitem__(self, feature: int) -> Card:
        """All that is known of one feature. Raises UsageError when the run has no such feature."""
        return self.known.card(feature)

    def find(self, words: str) -> pd.DataFrame:
        """Features whose labels, promoted tokens or notes hold the words, most words first."""
        return self.known.find(words)

    def note(self, feature: int, text: str) -> None:
        """Write down what you think a feature is; `study.label("hand")` labels with notes."""
        self.known.evidence.check(feature)
        add_note(self.path, feature, text)

    # ------------------------------------------------------------ the loaded model

    @cached_property
    def model(self) -> LoadedModel:
        """The subject and the autoencoder, loaded once. Raises NotReady before `train`."""
        from core.clamps.live import LoadedModel

        return LoadedModel(self.run_directory)

    def as_chat(self, text: str, answer: bool = False) -> str:
        """`text` as a user's turn in the subject's chat template, with the answer's beginning if
        asked.
        """
        return self.model.subject.chat_text([("user", text)], answer=answer)

    def top(self, text: str, against: str = "") -> TopFeatures:
        """The features that fire on `text` and, where it is given, not on `against`.

        Raises UsageError for a text of fewer than two tokens.
        """
        reading = self.model.read(text)
        other = {f for _, f, _ in self.model.read(against).firings} if against else set()
        firings = [
            {"position": p, "feature": f, "activation": a, "label": self.known.label(f)}
            for p, f, a in reading.firings
            if f not in other
        ]
        return TopFeatures(reading.tokens, firings, self.model.sae.n_features)

    def why(
        self,
        prompt: str,
        token: str = "",
        against: str = "",
        *,
        top: int = 10,
        steps: int = 1,
        also: Sequence[str] = (),
        at: int | None = None,
    ) -> Attribution:
        """Which features, at which tokens, make the next token of `prompt`; checked by ablation.

        The logit of `token` (default: the likeliest) less that of `against`; `top` firings and as
        many random ones are ablated. `steps` above 1 averages gradients. `also` names other runs of
        the same subject: the logit is attributed to their features too, with edges between the
        `top` firings of all. With `at`, it is asked why what follows token `at` of the prompt
        follows, the first of the row left out. Raises UsageError for a text that is not one token.
        """
        from core.attribution.attribute import Question
        from core.attribution.runs import why_runs

        question = Question(token, against, top, steps, at=at)
        others = [self._same_subject(name) for name in also]
        models = [(self.name, self.model), *((study.name, model) for study, model in others)]
        made = why_runs(models, prompt, question)

        def with_labels(found: Attribution, known: Features) -> Attribution:
            fired = {firing.feature for firing in found.firings}
            return replace(found, labels={f: known.label(f) for f in fired})

        named = zip(made.also, (study for study, _ in others), strict=True)
        made = replace(made, also=tuple(with_labels(a, s.known) for a, s in named))
        return with_labels(made, self.known)

    # ------------------------------------------------------------ clamps

    def maxima(self, features: Sequence[int]) -> dict[int, float]:
        """The largest activation of each feature in the index, SAE units."""
        return {f: self.known.evidence.stats(f).max for f in features}

    def clamp(
        self,
        clamps: Mapping[int, str | float] | Sequence[Clamp],
        prompts: str | Sequence[str],
        *,
        tokens: int = 40,
        samples: int = 2,
        temperature: float = 0.7,
        positions: str = "all",
        at: str = "",
        also: Mapping[str, Sequence[Clamp]] | None = None,
        doses: Sequence[float] = (),
        budget: DoseBudget | None = None,
        logprobs: int = 0,
    ) -> ClampedTexts:
        """Continue prompts with and without features clamped, from the same random seeds, and keep
        both.

        `clamps` maps a feature to a value in SAE units or to "4x", four times its maximum; a list
        of `Clamp` says modes. `also` maps other runs of the same subject to their clamps. `doses`
        also measures the clamps at multiples of their values; `logprobs` compares so many of the
        likeliest next tokens. Raises UsageError for an unknown feature.
        """
        from core.clamps.clamp import Sampling
        from core.clamps.live import Positions

        chosen = clamps_of(clamps)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        writing = Sampling(texts, tokens, temperature, tuple(range(samples)))
        places = Positions(positions, at)
        others = tuple(self._other(name, theirs) for name, theirs in (also or {}).items())
        what = (chosen, self.maxima([c.feature for c in chosen]), writing, places, others)
        record = self.model.clamp(*what)
        record = replace(record, labels={c.feature: self.known.label(c.feature) for c in chosen})
        if logprobs:
            record = replace(record, next_tokens=self.model.next_tokens(*what, n=logprobs))
        if doses:
            effort = budget or DoseBudget()
            measured = measure_doses(
                self.known.evidence, self.model, chosen, list(doses), effort, places
            )
            record = record.with_doses(measured)
        return self.keep(record)

    def keep(self, record: Experiment) -> ClampedTexts:
        """Keep an experiment in the run, with its texts at hand."""
        with self.run_directory.locked("clamp"):
            return ClampedTexts(self, record, save_experiment(self.run_directory, record))

    def _other(self, name: str, clamps: Sequence[Clamp]) -> tuple[LoadedModel, list[Clamp], dict]:
        """(the loaded model of another run on the same subject, its clamps, their maxima)."""
        other, loaded = self._same_subject(name)
        return loaded, list(clamps), other.maxima([c.feature for c in clamps])

    def _same_subject(self, name: str) -> tuple[Study, LoadedModel]:
        """Another run and its loaded model; raises UsageError for another subject than this run's.

        The subject is loaded once for both.
        """
        from core.clamps.live import LoadedModel

        other, mine = open(name), self.run_directory.settings
        theirs = other.run_directory.settings
        same = ("subject", "revision", "weights", "seed")
        if any(getattr(mine, field) != getattr(theirs, field) for field in same):
            raise UsageError(
                f"Run {name} is about another subject than {self.name}.",
                "Give --also a run on the same subject.",
            )
        return other, LoadedModel(other.run_directory, self.model.subject)

    def replay(self, number: int) -> tuple[Experiment, Experiment]:
        """Kept experiment `number`, and the same run again.

        Raises NotReady for another autoencoder.
        """
        kept = experiment(self.run_directory, number)
        return kept, replace(self.model.replay(kept), labels=kept.labels)

    def find_working(self, count: int, budget: DoseBudget | None = None) -> Iterator[ClampedTexts]:
        """Clamps that beat their controls, at their useful doses (`autointerp.gallery`)."""
        from autointerp.gallery import find_working

        return find_working(self, count, budget or DoseBudget())

    def estimate_working(self, budget: DoseBudget | None = None) -> float:
        """Seconds that `find_working` takes for each feature that it tries, from one timed text."""
        from autointerp.gallery import estimate_working

        return estimate_working(self, budget or DoseBudget())

    # ------------------------------------------------------------ pictures and exports

    def map(
        self,
        dark: bool = False,
        colour: str = "family",
        large: bool = False,
        contours: bool = True,
    ) -> Figure:
        """The map of all features, `large` for print (A3) or for a readme.

        `colour` is what the points' colours mean: family, cluster, kind (of the family), label (the
        kind of label), score, coverage or density. Raises NotReady before `cluster`, UsageError
        where the run has nothing to colour by.
        """
        from figures.report.map_drawing import MapDrawing, choose_look

        return MapDrawing(self.known).draw(colour, choose_look(dark, large, contours))

    def export(
        self,
        folder: str | Path,
        to: str = "site",
        *,
        also: Sequence[str] = (),
        small: bool = False,
        **names: str,
    ) -> list[Path]:
        """Write FOLDER: `site` (the explorer), `csv`, `jsonl`, `neuronpedia`, or `saelens` (the
        SAE). `also` are other runs for the same site, and a `small` site has fewer snippets.
        """
        from figures.explorer.site import export_site

        folder = Path(folder)
        if to == "saelens":
            from core.training.published import export_saelens

            export_saelens(self.run_directory, folder)
            return sorted(folder.iterdir())
        if to == "site":
            export_site(self.known, folder, [open(name).known for name in also], small)
            return [folder / "index.html"]
        if to == "neuronpedia":
            from autointerp.exchange.neuronpedia import export_neuronpedia

            return export_neuronpedia(
                self.known, folder, names.get("model", ""), names.get("source", "")
            )
        from autointerp.exchange.tables import export_table

        return export_table(self.known, folder, to)
