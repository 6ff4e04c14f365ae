"""The package installs, and its command works in another folder."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split())


def test_lower_bounds_are_met_by_the_pins():
    bounds = dict(line.split(">=") for line in PROJECT["dependencies"])
    assert set(bounds) == set(PINS)

    def numbers(version):
        return [int(part) for part in re.findall(r"\d+", version)]

    for name, bound in bounds.items():
        assert numbers(PINS[name])[: len(numbers(bound))] >= numbers(bound), name


def test_every_import_is_a_requirement():
    """What the code imports is pinned: nothing comes along by luck."""
    import ast

    names = {
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
        "faiss": "faiss-cpu",
        "umap": "umap-learn",
        "huggingface_hub": "huggingface-hub",
        "json_repair": "json-repair",
    }
    known = {name.split("[")[0] for name in PINS} | {
        "cycler",  # comes with matplotlib
        "aiohttp",
        "mpl_toolkits",
        "ray",
        "bitsandbytes",
        "zstandard",
    }
    for package in ("core", "autointerp", "figures"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module] if isinstance(node, ast.ImportFrom) else []
                for module in modules:
                    top = module.split(".")[0]
                    ours = top in ("core", "autointerp", "figures", "main", "__future__")
                    assert ours or top in sys.stdlib_module_names or names.get(top, top) in known, (
                        path,
                        top,
                    )


@pytest.mark.slow
def test_the_installed_command_runs_from_another_folder(tmp_path):
    """`pip install` into a folder of its own, without dependencies; they come from this
    environment.
    """
    source, target = tmp_path / "source", tmp_path / "site"
    for name in ("core", "autointerp", "figures", "data/subjects/python-7m"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("main.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quiet, "--target", target, str(source)],
        check=True,
    )
    environment = os.environ | {"PYTHONPATH": str(target), "BRAIN_SURGERY_HOME": str(tmp_path)}
    code = "import autointerp, core.embedded as e; print(autointerp.__file__, e.data_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(target))
    command = [sys.executable, str(target / "bin" / "brain-surgery")]
    version = subprocess.run(
        [*command, "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert PROJECT["version"] in version.stdout
    nothing = subprocess.run(
        [*command, "show", "nothing", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert nothing.returncode == 3
    assert "brain-surgery new nothing" in nothing.stderr
