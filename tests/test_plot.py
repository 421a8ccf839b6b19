"""`opefo plot`: the numbers behind the lines, what it says about sick runs, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest

from opefo_trl import cli, plot


def entries(steps=40, **metrics):
    """One entry per step; each metric a number or a function of the share of the steps that are done."""
    shares = [index / (steps - 1) for index in range(steps)]
    return [
        {
            "step": index + 1,
            **{name.replace("__", "/"): at(share) if callable(at) else at for name, at in metrics.items()},
        }
        for index, share in enumerate(shares)
    ]


HEALTHY = {
    "entropy": lambda share: 0.6 - 0.2 * share,
    "reward": lambda share: share,
    "frac_reward_zero_std": 0.3,
    "completions__mean_length": 200.0,
    "completions__clipped_ratio": 0.05,
    "entropy_flow__increase": 0.010,
    "entropy_flow__decrease": 0.012,
    "entropy_flow__coefficient": lambda share: 0.1 + 0.05 * share,
}
PLAIN = {name: value for name, value in HEALTHY.items() if not name.startswith("entropy_flow")}


def write(folder, log):
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": len(log), "log_history": log}))
    return folder


def diagnose(**changes):
    history = {}
    for entry in entries(**{**HEALTHY, **changes}):
        for name in entry.keys() - {"step"}:
            history.setdefault(name, {})[entry["step"]] = entry[name]
    return plot.diagnose(plot.Run("run", history))


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


def test_smoothing_averages_neighbours_and_narrows_at_the_ends(monkeypatch):
    monkeypatch.setattr(plot, "SMOOTHING", 4)  # one neighbour on either side of four
    smoothed = plot.smooth(np.array([[0.0, 2.0, 4.0, 0.0], [3.0, 3.0, 3.0, 3.0]]))  # (2, 4)
    assert smoothed.tolist() == [[1.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]]


def test_curve_is_mean_and_deviation_at_the_steps_in_common():
    runs = [
        plot.Run("a", {"reward": {10: 1.0, 20: 2.0, 30: 9.0}}),
        plot.Run("b", {"reward": {20: 4.0, 10: 5.0}}),
        plot.Run("c", {"entropy": {10: 1.0}}),
    ]
    curve = plot.make_curve(runs, "reward")
    assert curve.steps == [10, 20]
    assert curve.values.tolist() == [[1.0, 2.0], [5.0, 4.0]]
    assert curve.mean.tolist() == [3.0, 3.0]
    assert curve.deviation == pytest.approx([8**0.5, 2**0.5])
    assert plot.make_curve(runs[:1], "reward").deviation.tolist() == [0.0, 0.0, 0.0]
    assert plot.make_curve(runs, "entropy_flow/increase") is None


def test_entries_without_a_finite_value_are_skipped(tmp_path):
    log = [
        {"step": 1, "entropy": 0.5, "reward": None},
        {"step": 2, "entropy": float("nan"), "reward": 0.25},
        {"step": 2, "eval_entropy": 0.1, "eval_reward": 0.9},
        {"step": 3, "entropy": "0.4"},
        {"step": 3, "train_loss": 0.1, "train_runtime": 9.0},
        {"entropy": 7.0},
    ]
    run = plot.read_run(write(tmp_path / "run", log))
    assert run.history == {"entropy": {1: 0.5}, "reward": {2: 0.25}}


def test_newest_state_counts(tmp_path):
    run = write(tmp_path / "run", entries(2, entropy=0.2))
    write(run / "checkpoint-9", entries(9, entropy=0.9))
    write(run / "checkpoint-10", entries(10, entropy=1.0))
    (run / "checkpoint-11").mkdir()  # being written
    for path in (run, run / "checkpoint-10", run / "checkpoint-10" / "trainer_state.json"):
        read = plot.read_run(path)
        assert (read.name, len(read.values("entropy"))) == (str(path), 10)
    (run / "trainer_state.json").write_text(json.dumps({"log_history": entries(12, entropy=0.2)}))
    assert len(plot.read_run(run).values("entropy")) == 12


def test_seeds_are_grouped_by_the_ends_of_their_names(tmp_path):
    names = [
        "grpo-seed1",
        "grpo_seed2",
        "grpo-s30",
        "opefo/seed1",
        "opefo/seed2",
        "seedling",
        "a/x-seed1",
        "b/x-seed1",
    ]
    runs = {tmp_path / name: plot.Run(name, {}) for name in names}
    runs[tmp_path / "ck-seed1" / "checkpoint-5" / "trainer_state.json"] = plot.Run("ck", {})
    groups = {label: [run.name for run in group] for label, group in plot.group_by_seed(runs).items()}
    assert groups == {
        "grpo": ["grpo-seed1", "grpo_seed2", "grpo-s30"],
        "opefo": ["opefo/seed1", "opefo/seed2"],
        "seedling": ["seedling"],
        (tmp_path / "a" / "x").as_posix(): ["a/x-seed1"],
        (tmp_path / "b" / "x").as_posix(): ["b/x-seed1"],
        "ck": ["ck"],
    }


def test_a_healthy_run_is_met_with_silence():
    assert diagnose() == []
    assert plot.diagnose(plot.Run("nothing but rewards", {"reward": {1: 1.0}})) == []


@pytest.mark.parametrize(
    "changes, words",
    [
        # First and last twentieth of forty steps: two steps each
        (
            {"entropy": lambda share: 0.65 - 0.6 * share},
            ["entropy collapsed, 0.64 → 0.058 nats", "`flow_entropy_target`", "`learning_rate`"],
        ),
        ({"entropy": 0.04}, ["entropy collapsed, 0.04 → 0.04 nats"]),
        (
            {"entropy": lambda share: 0.5 + 2.0 * share},
            ["entropy exploded, 0.53 → 2.5 nats", "lower `learning_rate`", "`flow_entropy_target_ratio`"],
        ),
        (
            {"entropy_flow__coefficient": lambda share: -0.3 if share > 0.7 else 0.1},
            ["λ is pinned at its bound of ±0.3 in 100% of the last quarter", "`flow_max_coefficient`"],
        ),
        # A logged mean of equal values is off by a rounding
        (
            {"entropy_flow__coefficient": lambda share: 0.3 * (1 + share * 1e-9)},
            ["λ is pinned at its bound of ±0.3 in 100%"],
        ),
        (
            {"frac_reward_zero_std": 0.8, "reward": 0.97},
            ["80% of the groups", "mean reward 0.97", "harder data", "easier data"],
        ),
    ],
)
def test_troubles_are_named_with_their_mend(changes, words):
    [trouble] = diagnose(**changes)
    assert all(word in trouble for word in words), trouble


@pytest.mark.parametrize(
    "changes",
    [
        {"entropy": lambda share: 0.6 - 0.45 * share},  # a quarter is left
        {"entropy": 2.5},  # high from the start
        {"entropy_flow__coefficient": 0.0},  # GRPO
        {"entropy_flow__coefficient": 0.04},
        {"entropy_flow__coefficient": lambda share: 0.5 if share < 0.5 or share > 0.9 else 0.1},  # on its way
        {"entropy_flow__coefficient": lambda share: 0.5 * share},  # its maximum is reached once
        {"frac_reward_zero_std": lambda share: 0.9 - 0.3 * share},
    ],
)
def test_what_is_no_trouble(changes):
    assert diagnose(**changes) == []


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
    assert mean.get_ydata() == pytest.approx(plot.smooth(np.array(expected))) and set(raw.get_ydata()) == {0.01}
    assert len(entropy.collections) == 1 and set(target.get_ydata()) == {0.45}
    assert [(line.get_linestyle(), line.get_ydata()[0]) for line in flow.lines if line.get_zorder() == 3] == 2 * [
        ("-", pytest.approx(0.010)),
        ("--", pytest.approx(0.012)),
    ]
    assert out.read_bytes().startswith(b"\x89PNG")
    warning, wrote = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"Warning: {tmp_path}/_$sick$_{{: entropy collapsed, 0.01 → 0.01 nats")
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
        (None, "holds no trainer_state.json, nor does a checkpoint-* in it"),
        ("", "is broken or cut off: it is not JSON"),
        ('{"log_history": [{"step": 1, "entr', "is broken or cut off: it is not JSON"),
        (b"\xff\xfe\x00", "is broken or cut off"),
        ("[]", "holds no JSON object"),
        ("{}", "holds no list `log_history`"),
        ('{"log_history": [1]}', "holds no list `log_history`"),
        ('{"log_history": []}', "logged no metric of GRPO"),
        ('{"log_history": [{"step": 1, "loss": 2.0}]}', "logged no metric of GRPO"),
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
    refused(capsys, [run], out, "matplotlib is missing: `pip install 'opefo_trl[plot]'`", "`pip install -e '.[plot]'`")


def test_help_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys\nfrom opefo_trl import cli\n"
        "for args in (['--help'], ['plot', '--help']):\n"
        "    try: cli.main(args)\n    except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]" and "plot" in out and "-seed<N>" in out
