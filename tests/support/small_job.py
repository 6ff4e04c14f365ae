"""One whole small job, made once through the command line and shared by the tests that read it.

Loaded as a pytest plugin.
"""

import contextlib
import io
import shutil
import sys
from pathlib import Path

import pytest

import main
from tests.support.shared import build_once


@pytest.fixture(scope="session")
def call():
    """Run one command in this process: (exit code, standard output, standard error)."""

    def run(*words):
        out, err, old = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["main.py", *map(str, words)]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main.main()
        finally:
            sys.argv = old
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture(scope="session")
def job(tmp_path_factory, subject_folder, call):
    """The path of a run on which every stage was done through the command line. Shared: read it
    only.
    """

    def make(folder):
        from tests.support.tiny import write_documents  # imports torch: not in every process

        corpus = write_documents(folder / "texts", n=120, words=60)
        new = [
            "--site",
            "resid_post.1",
            "--corpus",
            corpus,
            "--dtype",
            "float32",
            "--device",
            "cpu",
        ]
        done(call("new", folder / "run", "--subject", subject_folder, *new))
        done(call("capture", folder / "run", "--context", 32))
        small = ["--batch-size", 256, "--warmup", 5, "--check-every", 10]
        done(call("train", folder / "run", "--expansion", 8, "--k", 4, *small))
        done(call("run", folder / "run", "--no-controls"))

    path = build_once(tmp_path_factory, "job", make) / "run"
    before = _file_times(path)
    yield path
    after = _file_times(path)
    changed = sorted(str(name) for name in set(before.items()) ^ set(after.items()))
    assert not changed, f"a test wrote into the shared job: {changed[:4]}"


def _file_times(run: Path) -> dict[str, int]:
    files = (path for path in run.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in files}


def done(result):
    """The command's exit code is 0; its standard error is shown where it is not."""
    code, _, err = result
    assert code == 0, err


@pytest.fixture
def job_copy(job, tmp_path):
    shutil.copytree(job, tmp_path / "job")
    return tmp_path / "job"


def two_lines(err):
    """The two lines of an error for a person: what was wrong, and what to type."""
    lines = err.strip().splitlines()[-2:]
    assert "Traceback" not in err and lines[0].startswith("error: ") and lines[1]
    return lines


def pytest_collection_modifyitems(items):
    """Whatever needs the whole small job is slow."""
    for item in items:
        if "job" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
