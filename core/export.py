"""A run's SAE, written for other programs."""

from __future__ import annotations

from pathlib import Path

from core.errors import UsageError
from core.records import Site
from core.run import Run
from core.saes import load_sae
from core.saes.formats.saelens_save import save_saelens


def export_saelens(run: Run, folder: Path) -> dict:
    """Write the run's SAE into `folder` in the layout of SAELens 6, and tell what was written.

    Raises NotReady before `train` (or capture, which says the context), and UsageError for a folder with other files or an SAE that SAELens has no place for.
    """
    sae, settings = load_sae(run.folder("train")), run.settings
    context = int(run.manifest("capture").settings["context"])
    if folder.exists() and {path.name for path in folder.iterdir()} - {"cfg.json", "sae_weights.safetensors"}:
        raise UsageError(f"{folder} holds other files.", "Name a new folder.")
    save_saelens(sae, folder, Site.parse(settings.site), settings.subject, context)
    return {"folder": str(folder), "architecture": sae.architecture, "features": sae.n_features, "width": sae.d_in, "site": settings.site}
