"""benchmarks/study/prediction/pictures.py: what is drawn is what the records hold."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from prediction_policies import make_records

from benchmarks.study.prediction.decomposition import PARTS
from benchmarks.study.prediction.merits import merits_of
from benchmarks.study.prediction.pictures import draw_decay, draw_drift, draw_parts, draw_scatter
from benchmarks.study.prediction.records import own_updates, plain_pairs


@pytest.fixture(scope="module")
def records():
    return make_records()


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_decay(records, axes):
    draw_decay(axes, records)
    solid, dashed = axes.lines[0], axes.lines[1]  # "exact" with SGD and with AdamW
    for line, optimizer in ((solid, "sgd"), (dashed, "adamw")):
        expected = [merits_of(plain_pairs(records, optimizer, "exact", size))["pearson"] for size in (0.1, 1.0, 3.0)]
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert [solid.get_linestyle(), dashed.get_linestyle()] == ["-", "--"]


def test_drift(records, axes):
    draw_drift(axes, records)
    bars = [bars for bars in axes.containers if bars.get_label() == "AdamW, OPEFO"][-1]
    steps = own_updates(records, "opefo", "adamw", 1.0)
    expected = [np.mean([step["measured"] for step in steps])]
    expected += [np.mean([step["parts"][part] for step in steps]) for part in PARTS]
    np.testing.assert_allclose([bar.get_height() for bar in bars], 1e4 * np.array(expected))


def test_pictures_are_written_and_closed(records, tmp_path):
    for draw in (draw_scatter, draw_parts):
        draw(records, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_scatter(records, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    draw_scatter(records, tmp_path / "picture.png")
    first = plt.gcf().axes[0]
    points = np.concatenate([points.get_offsets() for points in first.collections])
    expected = plain_pairs(records, "sgd", "exact", 1.0)
    assert sorted(map(tuple, points)) == sorted(expected)
    assert first.get_title() == f"SGD, exact: r = {merits_of(expected)['pearson']:.2f}"
    monkeypatch.undo()
    plt.close("all")
