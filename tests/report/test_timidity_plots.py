from itertools import combinations

from matplotlib.text import Annotation, Text

from cleareyed.oversensitivity.plane import published_points
from cleareyed.report.timidity_plots import plane_figure


def test_every_model_on_the_plane_can_be_read():
    figure = plane_figure(published_points(draws=2))
    figure.draw_without_rendering()
    for axes in figure.axes:
        names = [text for text in axes.texts if isinstance(text, Annotation)]
        assert len(names) == 16
        boxes = [Text.get_window_extent(name).padded(-1) for name in names]
        assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
