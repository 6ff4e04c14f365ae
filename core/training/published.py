"""Convert a published SAE into a run's `train` unit, and export the run's own SAE."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.activations.layout import OUT, read_layout
from core.errors import UsageError
from core.progress import say
from core.records import Site
from core.run import Run
from core.saes import SAE
from core.saes.formats.names import is_same_subject
from core.subject.load import load_subject
from core.training.basis import Basis, make_basis
from core.training.unit import write_directions

SAELENS_FILES = {"cfg.json", "sae_weights.safetensors"}


def save_unit(folder: Path, sae: SAE, run: Run) -> None:
    """Write what later stages read of an SAE into `folder`.

    sae.safetensors says which site of which subject the run reads; directions.npy holds W_dec
    (F, D) alone, to be memory-mapped.
    """
    with_run_origin(sae, run).save(folder)
    write_directions(folder, sae.W_dec.numpy())


def with_run_origin(sae: SAE, run: Run) -> SAE:
    """Return `sae` with the site, subject and context of `run`; raises NotReady before capture."""
    context, about = int(run.manifest("capture").settings["context"]), run.settings
    place = Site.parse(about.site_out) if about.site_out else None
    made = sae.with_origin(Site.parse(about.site), about.subject, context, place)
    made.bos = about.bos
    return made


def complete_settings(given: dict[str, Any]) -> tuple[dict[str, Any], SAE]:
    """(the settings of a run for the SAE that `given["sae"]` names, the SAE).

    What the SAE says of its subject, site and BOS holds where `given` says nothing; where the two
    differ, a line says so. Raises UsageError where neither says the site.
    """
    sae, made = SAE.load(given["sae"]), dict(given)
    if sae.subject and not is_same_subject(sae.subject, made.setdefault("subject", sae.subject)):
        say(f"warning: this SAE was trained on {sae.subject}, not on {made['subject']}")
    own = {"site": sae.site} | ({"site_out": sae.site_out} if sae.config.transcoder else {})
    for name, site in own.items():
        if name not in made and site is None:
            verb = "reads" if name == "site" else "predicts"
            raise UsageError(
                f"{given['sae']} does not say which site it {verb}.",
                f"Name it: --{name.replace('_', '-')} resid_post.6, or a module path.",
            )
        made.setdefault(name, str(site))
    if made.setdefault("bos", sae.bos) != sae.bos:
        say(f"warning: this SAE was trained on rows {'with' if sae.bos else 'without'} BOS")
    return made, sae


def convert_published(run: Run, folder: Path) -> dict[str, Any]:
    """Write the unit `train` from the SAE that the run names.

    Raises UsageError when its width is not the site's, and for a transcoder in a run of one site or
    an autoencoder in a run of two.
    """
    sae = load_named(run)
    check_sites(run, sae)
    width = read_layout(run.folder("capture")).width
    save_unit(folder, sae, run)
    return {
        "architecture": sae.architecture,
        "features": sae.n_features,
        "width": width,
        "source": sae.source,
        "form": asdict(sae.config),
        "site": str(sae.site or ""),
        "subject": sae.subject,
        "context": sae.context,
        **({"site_out": str(sae.site_out or "")} if sae.config.transcoder else {}),
        "bos": sae.bos,
    }


def load_named(run: Run) -> SAE:
    """Return the SAE that the run names: a published one, or units of its subject."""
    about, basis = run.settings, Basis.parse(run.settings.sae)
    if basis is None:
        return SAE.load(about.sae)
    sites = Site.parse(about.site), Site.parse(about.site_out or about.site)
    return make_basis(load_subject(run), basis, *sites)


def check_sites(run: Run, sae: SAE) -> None:
    """Raise UsageError where the SAE's form or widths are not those of the run's sites."""
    about, folder = run.settings, run.folder("capture")
    if sae.config.transcoder != bool(about.site_out):
        raise UsageError(
            "It is a transcoder, and the run has one site."
            if sae.config.transcoder
            else f"It reconstructs what it reads, and the run predicts {about.site_out}.",
            "Make a run with --site and --site-out."
            if sae.config.transcoder
            else "Make a run without --site-out.",
        )
    widths = {"reads": (sae.d_in, about.site, folder)}
    if about.site_out:
        widths["writes"] = (sae.d_out, about.site_out, folder / OUT)
    for verb, (own, site, place) in widths.items():
        if own != (width := read_layout(place).width):
            raise UsageError(
                f"The SAE {verb} vectors of {own} numbers; {site} has {width}.",
                "Make a run for the SAE's own site.",
            )


def export_saelens(run: Run, folder: Path) -> dict[str, Any]:
    """Write the run's SAE into `folder` in the layout of SAELens 6; return what was written.

    Raises NotReady before `train`, and UsageError for a folder with other files or an SAE that
    SAELens cannot describe.
    """
    sae = with_run_origin(SAE.load(run.folder("train")), run)
    if folder.exists() and {path.name for path in folder.iterdir()} - SAELENS_FILES:
        raise UsageError(f"{folder} holds other files.", "Name a new folder.")
    sae.save(folder, layout="saelens")
    return {
        "folder": str(folder),
        "architecture": sae.architecture,
        "features": sae.n_features,
        "width": sae.d_in,
        "site": run.settings.site,
    }
