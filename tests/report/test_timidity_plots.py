from itertools import combinations, product

import pytest
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from cleareyed.oversensitivity.plane import POOLED, published_points
from cleareyed.report.timidity_plots import CLEAR, NEAR, detection_figure, plane_figure


def test_every_model_on_the_plane_can_be_read():
    figure = plane_figure(published_points(draws=2))
    figure.draw_without_rendering()
    for axes in figure.axes:
        names = [text for text in axes.texts if isinstance(text, Annotation)]
        assert len(names) == 16
        boxes = [Text.get_window_extent(name).padded(-1) for name in names]
        assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("count", [2, 16])
def test_no_name_of_a_curve_touches_a_model_s_name_or_mark(count: int):
    points = published_points(draws=2)[:count]
    figure = detection_figure(points)
    figure.draw_without_rendering()
    left = figure.axes[0]
    curves = [text for text in left.texts if not isinstance(text, Annotation)]
    assert [text.get_text() for text in curves] == ["d' 0", "d' 0.5", "d' 1", "d' 1.5", "d' 2"]
    boxes = [text.get_window_extent().padded(CLEAR - 1) for text in curves]
    names = [Text.get_window_extent(text) for text in left.texts if isinstance(text, Annotation)]
    marks = []
    for point in points:
        x, y = left.transData.transform((100 * point.cells[POOLED].benign, 100 * point.cells[POOLED].contrast))
        marks.append(Bbox.from_extents(x - NEAR, y - NEAR, x + NEAR, y + NEAR))
    assert len(names) == count
    assert not [(a, b) for a, b in product(boxes, names + marks) if a.overlaps(b)]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
