"""One whole small job, made once through the command line and shared by the tests that read it. Loaded as a pytest plugin."""

import contextlib
import io
import shutil
import sys

import pytest

import main
from tests.support.tiny import write_documents


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
    """The path of a run on which every stage was done through the command line. Shared: read it only."""
    folder = tmp_path_factory.mktemp("job")
    corpus = write_documents(folder / "texts", n=120, words=60)
    path = folder / "run"
    code, out, _ = call(
        "new",
        path,
        "--subject",
        subject_folder,
        "--site",
        "resid_post.1",
        "--corpus",
        corpus,
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )
    assert code == 0 and str(path) in out
    assert call("capture", path, "--context", 32)[0] == 0
    assert (
        call(
            "train",
            path,
            "--expansion",
            8,
            "--k",
            4,
            "--batch",
            256,
            "--warmup",
            5,
            "--check-every",
            10,
        )[0]
        == 0
    )
    code, out, err = call("run", path)
    assert code == 0, err
    return path


@pytest.fixture
def job_copy(job, tmp_path):
    shutil.copytree(job, tmp_path / "job")
    return tmp_path / "job"


def two_lines(err):
    """The two lines of an error for a person: what was wrong, and what to type."""
    lines = err.strip().splitlines()[-2:]
    assert "Traceback" not in err and lines[0].startswith("error: ") and lines[1]
    return lines
