"""`opefo plot`: what it draws, warns of and refuses."""

import subprocess
import sys

import numpy as np
import pytest
from run_logs import HEALTHY, PLAIN, entries, write

from opefo_trl.commands import cli
from opefo_trl.plotting.drawing import smooth


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, written all the same."""
    from matplotlib.figure import Figure

    saved = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (saved.append(self), savefig(self, *args, **kwargs))
    )
    return saved


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_command_draws_a_line_per_group_and_a_target(tmp_path, figures, capsys):
    for seed in (1, 2):
        write(tmp_path / f"opefo_seed{seed}", entries(**HEALTHY))
    write(tmp_path / "_$sick$_{", entries(**{**HEALTHY, "entropy": 0.01, "entropy_flow__target": 0.45}))
    out = tmp_path / "picture.png"
    out.write_text("an older one")
    paths = [str(tmp_path / name) for name in ("opefo_seed1", "opefo_seed2", "opefo_seed2", "_$sick$_{")]
    assert cli.main(["plot", *paths, "--out", str(out)]) == 0
    [figure] = figures
    assert titles(figure) == [
        "Entropy (dashed: target)",
        "Reward",
        "Entropy flow: increasing, decreasing (dashed)",
        "Balance coefficient λ",
        "Length of completions",
        "Completions cut off",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["opefo", "_$sick$_{"]
    entropy, flow = figure.axes[0], figure.axes[2]
    assert entropy.get_ylabel() == "nats per token"
    mean, raw, smoothed, target = entropy.lines  # the mean of two seeds; a run by itself; the target of that run
    assert mean.get_color() == "#D55E00" and raw.get_color() == smoothed.get_color() == target.get_color() == "#0072B2"
    expected = [entry["entropy"] for entry in entries(**HEALTHY)]
    assert mean.get_ydata() == pytest.approx(smooth(np.array(expected))) and set(raw.get_ydata()) == {0.01}
    assert len(entropy.collections) == 1 and set(target.get_ydata()) == {0.45}
    assert [(line.get_linestyle(), line.get_ydata()[0]) for line in flow.lines if line.get_zorder() == 3] == 2 * [
        ("-", pytest.approx(0.010)),
        ("--", pytest.approx(0.012)),
    ]
    assert out.read_bytes().startswith(b"\x89PNG")
    warning, wrote = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"Warning: {tmp_path}/_$sick$_{{: Entropy collapsed, 0.01 → 0.01 nats")
    assert wrote == f"Wrote {out}: opefo (2 seeds), _$sick$_{{."


def test_plain_grpo_has_no_panels_of_flow(tmp_path, figures, monkeypatch, capsys):
    run = write(tmp_path / "grpo", entries(**PLAIN))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plot", str(run / "trainer_state.json")]) == 0
    assert (tmp_path / "entropy_flow.png").is_file()
    assert titles(figures[0]) == ["Entropy", "Reward", "Length of completions", "Completions cut off"]
    assert capsys.readouterr().out == "Wrote entropy_flow.png: grpo.\n"


def test_single_step_is_drawn_as_svg(tmp_path, figures):
    run = write(tmp_path / "run", [{"step": 1, "reward": 0.5}])
    assert cli.main(["plot", "--out", str(tmp_path / "a.SVG"), str(run)]) == 0
    assert "<svg" in (tmp_path / "a.SVG").read_text()
    assert titles(figures[0]) == ["Reward"] and figures[0].axes[0].lines[-1].get_marker() == "o"


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "holds no trainer_state.json, and no checkpoint-* with one"),
        ("", "is broken or cut off: it is not JSON"),
        ('{"log_history": [{"step": 1, "entr', "is broken or cut off: it is not JSON"),
        (b"\xff\xfe\x00", "is broken or cut off"),
        ("[]", "holds no JSON object"),
        ("{}", "holds no list `log_history`"),
        ('{"log_history": [1]}', "holds no list `log_history`"),
        ('{"log_history": []}', "has no metric of GRPO"),
        ('{"log_history": [{"step": 1, "loss": 2.0}]}', "has no metric of GRPO"),
    ],
)
def test_broken_logs_are_refused(tmp_path, capsys, content, words):
    good = write(tmp_path / "good", entries(**HEALTHY))
    bad = tmp_path / "bad"
    bad.mkdir()
    if content is not None:
        (bad / "trainer_state.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(capsys, [good, bad], tmp_path / "out.png", words, str(bad))


def refused(capsys, runs, out, *words):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["plot", *map(str, runs), "--out", str(out)])
    captured = capsys.readouterr()
    assert exit_info.value.code == 2 and captured.out == "" and not out.exists()
    assert captured.err.startswith("opefo plot: error: ") and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err


def test_other_refusals(tmp_path, capsys, monkeypatch):
    run = write(tmp_path / "run", entries(**HEALTHY))
    out = tmp_path / "out.png"
    refused(capsys, [tmp_path / "gone"], out, "gone does not exist")
    refused(capsys, [run], tmp_path / "out.pdf", "`--out`", "must end with .png or .svg")
    refused(capsys, [run], tmp_path / "no" / "out.png", "out.png cannot be written: No such file or directory")
    apart = [
        write(tmp_path / "x-seed1", [{"step": 1, "reward": 0.5}]),
        write(tmp_path / "x-seed2", [{"step": 2, "reward": 0.5}]),
    ]
    refused(capsys, apart, out, "no step of `reward` in common", "plot them apart")
    many = [write(tmp_path / f"run{letter}", entries(2, reward=1.0)) for letter in "abcdefgh"]
    refused(capsys, many, out, "8 lines, but only 7 colours")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(capsys, [run], out, "is missing: run `pip install 'opefo_trl[plot]'`", "`pip install -e '.[plot]'`")


def test_help_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys\nfrom opefo_trl.commands import cli\n"
        "for args in (['--help'], ['plot', '--help']):\n"
        "    try: cli.main(args)\n    except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]" and "plot" in out and "-seed<N>" in out
