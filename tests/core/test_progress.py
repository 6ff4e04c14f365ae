"""Bars move while nothing is counted, and are lines where standard error is no terminal."""

import gc
import io
import re
import threading
import time

import pytest

from core import progress as module
from core.progress import Steps, progress, say, working


class Screen(io.StringIO):
    """Standard error; `written` is set at every write after it was cleared."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal, self.written = terminal, threading.Event()

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.written.set()
        return super().write(text)

    def moves(self):
        """Whether something is written soon, though nothing is counted."""
        self.written.clear()
        return self.written.wait(20)


@pytest.fixture
def screen(monkeypatch):
    def open_screen(terminal, every):
        made = Screen(terminal)
        monkeypatch.setattr("sys.stderr", made)
        monkeypatch.setattr(module, "REDRAW" if terminal else "LINE", every)
        return made

    return open_screen


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_moves_while_a_step_lasts(screen, terminal):
    seen = screen(terminal, 0.01)
    with progress(total=10, label="index", unit="tok") as bar:
        bar.update(3)
        assert seen.moves() and seen.moves()
    assert "index" in seen.getvalue() and "3.00/10.0" in seen.getvalue()


def test_outside_a_terminal_there_are_whole_lines(screen):
    seen = screen(False, 0.01)
    with progress(total=10, label="index", unit="tok") as bar:
        bar.update(3)
        assert seen.moves() and seen.moves()
    assert "\r" not in seen.getvalue() and seen.getvalue().endswith("\n")
    assert all(line.startswith("index") for line in seen.getvalue().splitlines())


def test_a_short_loop_writes_no_line_outside_a_terminal(screen):
    seen = screen(False, 60.0)
    assert list(progress(range(1000), "score")) == list(range(1000))
    assert seen.getvalue() == ""


def test_a_terminal_shows_the_end_as_one_line(screen):
    seen = screen(True, 60.0)
    assert list(progress(range(7), "score", unit="feat")) == list(range(7))
    assert seen.getvalue().endswith("\n") and seen.getvalue().count("\n") == 1
    assert "7.00/7.00" in seen.getvalue()


def test_threads_count_together(screen):
    screen(False, 60.0)
    with progress(total=8000) as bar:

        def count():
            for _ in range(1000):
                bar.update(1)

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bar.n == 8000


@pytest.mark.parametrize("ending", ["close", "break", "forget"])
def test_the_clock_ends_with_the_bar(screen, ending):
    before = threading.active_count()
    screen(True, 0.01)
    bar = progress(range(5), "x")
    if ending == "close":
        bar.close()
    elif ending == "break":
        for _ in bar:
            break
    else:
        del bar
        gc.collect()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("terminal", [True, False])
def test_work_without_a_bar_is_told_and_a_bar_takes_its_place(screen, monkeypatch, terminal):
    seen = screen(terminal, 0.01)
    monkeypatch.setattr(module, "QUIET", 0.0)
    with working("cluster"):
        assert seen.moves() and seen.moves()
        with progress(total=10, label="proof"):
            time.sleep(0.05)
            assert seen.moves()
            told = seen.getvalue().count("cluster")
            time.sleep(0.1)
            assert seen.getvalue().count("cluster") == told
        assert seen.moves() and seen.moves()
        say("a line")
    assert told and seen.getvalue().count("cluster") > told
    if terminal:
        assert re.search(r"\r +\ra line\n", seen.getvalue()), "the line stands alone"
        assert seen.getvalue().endswith("\r") or seen.getvalue().endswith("a line\n")
    else:
        assert "\r" not in seen.getvalue() and seen.getvalue().endswith("\n")
    ended = seen.getvalue()
    time.sleep(0.05)
    assert seen.getvalue() == ended


def test_short_work_says_nothing(screen):
    seen = screen(True, 0.01)
    with working("index"):
        time.sleep(0.1)
    assert seen.getvalue() == ""


def test_steps_are_numbered_and_tell_the_rest_from_what_the_first_ones_took(capsys):
    times = iter([0.0, 100.0, 400.0])
    steps = Steps({"read": 0.2, "index": 0.6, "report": 0.2}, lambda: next(times))
    for name in ("read", "index", "report"):
        steps.begin(name)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[1/3] read",
        "[2/3] index (about 7 min left)",
        "[3/3] report (about 2 min left)",
    ]
