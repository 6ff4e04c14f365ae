"""Stage `train` of a run that loads a published SAE: convert it, once, into our own file, and check that it fits the site."""

from __future__ import annotations

from pathlib import Path

from core.errors import UsageError
from core.files import read_json, write_array
from core.records import Manifest, Site
from core.run import Run
from core.saes import SAE, load_sae, save_sae
from core.saes.formats import load_published
from core.saes.formats.saelens_save import save_saelens
from core.settings import TrainSettings


def save_unit(folder: Path, sae: SAE, run: Run) -> None:
    """Write what later stages read of an SAE: itself, with where it belongs, and its directions (F, D) alone, to be mapped."""
    about = {
        "site": run.settings.site,
        "subject": run.settings.subject,
        "context": run.manifest("capture").settings["context"],
    }
    save_sae(sae, folder, about)
    write_array(folder / "directions.npy", sae.W_dec.numpy())


def adopt(run: Run, settings: TrainSettings, version: int, redo: bool) -> Manifest:
    """Commit the unit `train` from the SAE that the run names; raises UsageError when its width is not the site's."""
    if settings != TrainSettings():
        raise UsageError(
            f"{run.name} loads a published SAE, so there is nothing to train.",
            f"Type: python main.py train {run.name}",
        )
    work = run.begin("train", version, settings, ["capture"], redo)
    if work is None:
        return run.manifest("train")
    published = load_published(run.settings.sae)
    width = read_json(run.folder("capture") / "shards.json")["width"]
    if published.sae.d_in != width:
        raise UsageError(
            f"The SAE reads vectors of {published.sae.d_in} numbers; {run.settings.site} gives {width}.",
            "Make a run for the SAE's own site.",
        )
    save_unit(work.folder, published.sae, run)
    return work.commit({
        "architecture": published.sae.architecture, "features": published.sae.n_features, "width": width, "source": published.source,
        "form": published.sae.settings(), "site": str(published.site or ""), "subject": published.subject, "context": published.context,
    })  # fmt: skip


def export_saelens(run: Run, folder: Path) -> dict:
    """Write the run's SAE into `folder` in the layout of SAELens 6, and tell what was written.

    Raises NotReady before `train` (or capture, which says the context), and UsageError for a folder with other files or an SAE that SAELens has no place for.
    """
    sae, settings = load_sae(run.folder("train")), run.settings
    context = int(run.manifest("capture").settings["context"])
    if folder.exists() and {path.name for path in folder.iterdir()} - {
        "cfg.json",
        "sae_weights.safetensors",
    }:
        raise UsageError(f"{folder} holds other files.", "Name a new folder.")
    save_saelens(sae, folder, Site.parse(settings.site), settings.subject, context)
    return {
        "folder": str(folder),
        "architecture": sae.architecture,
        "features": sae.n_features,
        "width": sae.d_in,
        "site": settings.site,
    }
