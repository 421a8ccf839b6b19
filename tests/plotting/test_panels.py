"""opefo_trl/plotting/panels.py: what is drawn, and where."""

from opefo_trl.plotting.panels import DRAWN, PANELS, TARGET


def test_each_metric_is_drawn_once_and_a_panel_has_two_kinds_of_line():
    metrics = [metric for panel in PANELS for metric in panel.metrics]
    assert sorted(metrics) == sorted(DRAWN) and TARGET not in DRAWN
    assert all(len(panel.metrics) <= 2 for panel in PANELS)
