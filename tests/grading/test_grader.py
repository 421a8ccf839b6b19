"""Answers compared in processes of their own: what ordinary ones are worth, and that hostile ones harm nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from opefo_trl.grading import grader
from opefo_trl.grading.grader import Grader
from opefo_trl.grading.policy import Policy


@pytest.fixture(scope="module")
def two_workers():
    return Grader(num_workers=2)


@pytest.mark.parametrize(
    ("gold", "answer", "reward"),
    [
        ("27", "27.0", 1.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        (r"\frac12", r"\dfrac{1}{2}", 1.0),
        ("2, 3", "3,2", 1.0),
        ("(2, 3)", "(3, 2)", 0.0),
        ("5", "x = 5", 1.0),
        ("5", r"5 \text{ cm}", 1.0),
        ("1000", "1{,}000", 1.0),
        ("[0, 1)", "(0, 1)", 0.0),
        (r"\text{Evelyn}", "Evelyn", 1.0),
        ("(C)", r"\text{C}", 1.0),
        (r"90^\circ", "90", 1.0),
        ("2", "1, 2", 0.0),
        ("p - q", "q - p", 0.0),
        ("2", None, 0.0),
        ("2", r"\frac{", 0.0),
        ("2", "\x00", 0.0),
        ("", "2", None),
        ("", None, None),
    ],
)
def test_ordinary_answers(two_workers, gold, answer, reward):
    assert two_workers.grade([(gold, answer)]) == [reward]


def test_order_and_repetition(two_workers):
    pairs = [("1", "1"), ("2", "1"), ("", "1"), ("1", "1"), ("2", "2")] * 20
    assert two_workers.grade(pairs) == [1.0, 0.0, None, 1.0, 1.0] * 20
    assert two_workers.grade([]) == []


# Each of these keeps math-verify busy for longer than anyone can wait, or exhausts memory or the stack
HOSTILE = ["9^{9^{9^9}}", "10^{10^{10}}!", "(" * 400, "{" * 300 + "}" * 300, "x^" * 300 + "x", "(1+x)^{10000}"]


def test_hostile_answers_are_worth_nothing_and_stop_nothing(two_workers):
    began = time.monotonic()
    pairs = [(gold, answer) for answer in HOSTILE for gold in ("5", "5", "7")] + [("5", "5")]
    assert two_workers.grade(pairs) == [0.0] * (len(pairs) - 1) + [1.0]
    assert time.monotonic() - began < len(pairs) * grader.WALL_SECONDS / 2
    assert two_workers.grade([("5", "5"), ("5", "6")]) == [1.0, 0.0], "the workers go on"


def test_hostile_golds_end_in_time_and_equal_themselves(two_workers):
    began = time.monotonic()
    assert two_workers.grade([(gold, "5") for gold in HOSTILE]) == [0.0] * len(HOSTILE)
    assert two_workers.grade([(gold, gold) for gold in HOSTILE]) == [1.0] * len(HOSTILE)
    assert time.monotonic() - began < len(HOSTILE) * grader.WALL_SECONDS / 2


def test_gold_that_takes_too_long_to_read_is_no_gold(two_workers):
    gold = "x^{" * 120 + "x" + "}" * 120
    assert two_workers.grade([(gold, "5"), (gold, None), ("5", "5")]) == [None, None, 1.0]


def test_golds_that_are_text_alone(two_workers):
    assert two_workers.text_alone(["34", "All of them are odd.", "x", r"\frac{"]) == [False, True, False, True]


def test_policy(two_workers):
    pairs = [("5", "5.04"), ("5 cm", "5"), ("5, 6", "5")]
    assert two_workers.grade(pairs) == [0.0, 1.0, 0.0]
    assert two_workers.grade(pairs, Policy(tolerance=0.01, units="required", several_golds="any")) == [1.0, 0.0, 1.0]


def test_outside_the_main_thread(two_workers):
    rewards = []
    thread = threading.Thread(target=lambda: rewards.extend(two_workers.grade([("5", HOSTILE[0]), ("5", "5.0")])))
    thread.start()
    thread.join(timeout=60)
    assert rewards == [0.0, 1.0]


def test_interrupting_the_terminal_leaves_the_workers_to_the_training():
    pool = Grader(num_workers=1)
    assert pool.grade([("5", "5")]) == [1.0]
    worker = pool._idle.get()
    pool._idle.put(worker)
    for process in (worker.pid, *children(worker.pid)):
        os.kill(process, signal.SIGINT)
    assert pool.grade([("5", "5"), ("5", "6")]) == [1.0, 0.0] and worker.poll() is None


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_workers_are_replaced():
    pool = Grader(num_workers=1)
    assert pool.grade([("5", "5")]) == [1.0]
    worker = pool._idle.get()
    pool._idle.put(worker)
    for victim in (*children(worker.pid), worker.pid):  # as the kernel does when memory runs out
        os.kill(victim, signal.SIGKILL)
        time.sleep(0.2)
        assert pool.grade([("5", "5"), ("5", "6")]) == [1.0, 0.0]


def test_a_reader_that_has_grown_is_replaced():
    script = (
        "import opefo_trl.grading.grader as grader\ngrader.KEPT_BYTES = {}\nreader, pids = grader._Reader(), []\n"
        "for answer in '565':\n    print(reader.reply('5', answer, {{}})['reward'])\n"
        "    pids.append(reader._child.pid)\n"
        "print(len(set(pids)))"
    )
    for kept, processes in (("0", "3"), ("grader.KEPT_BYTES", "1")):
        command = [sys.executable, "-c", script.format(kept)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == ["1.0", "0.0", "1.0", processes]


@pytest.mark.parametrize("waiting_for", ["nothing", "9^{9^{9^9}}"])
def test_workers_end_with_the_process_that_started_them(waiting_for):
    script = (
        "import os, signal, threading, time\nfrom opefo_trl.grading.grader import Grader\n"
        "pool = Grader(num_workers=1)\n"
        "pool.grade([('5', '5')])\nworker = pool._idle.get()\npool._idle.put(worker)\nprint(worker.pid, flush=True)\n"
        f"threading.Thread(target=pool.grade, args=([('5', '{waiting_for}')],)).start()\ntime.sleep(0.3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    worker = Path("/proc") / done.stdout.strip()
    deadline = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline, "the worker outlived its process"


def test_workers_that_cannot_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(RuntimeError, match="run `python -m opefo_trl.grading.grader` to see why"):
        Grader(num_workers=1).grade([("5", "5")])


def test_workers_import_neither_torch_nor_trl():
    code = (
        "import sys, opefo_trl.grading.grader as g; g.equal('x+1', '1+x'); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
