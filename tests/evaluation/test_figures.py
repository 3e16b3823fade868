import math
import subprocess
import sys

import numpy as np
from matplotlib.figure import Figure

from electra_kernels.evaluation import figures
from electra_kernels.evaluation.figures import Curve, curves_figure

PROGRAM = """
import sys
import matplotlib
from electra_kernels.evaluation import figures

matplotlib.use("svg")
figures.step_figure({"forward": 1.0, "backward": 2.0})
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""


def test_a_figure_is_a_png_picture():
    assert figures.step_figure({"forward": 1.0, "backward": 2.0}).startswith(b"\x89PNG")


def test_drawing_leaves_the_back_end_of_the_user_alone():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["svg", "False"]


def drawn(points):
    """Steps and values of the line that a curve becomes."""
    axis = Figure().subplots()
    figures._draw_curve(axis, Curve("", points, "C0"))
    return axis.lines[0].get_xydata().tolist()


def test_a_short_curve_is_drawn_as_it_is_without_what_is_not_finite():
    assert drawn([(10, 1.0), (20, None), (30, math.nan), (40, 2.0)]) == [[10, 1], [40, 2]]


def test_a_long_curve_is_drawn_as_means_of_neighbours():
    points = [(step, float(step % 2)) for step in range(6_000)]
    steps, values = np.transpose(drawn(points))
    assert len(steps) == 300
    assert steps[0] == 9.5  # the mean of the steps 0 to 19
    np.testing.assert_allclose(values, 0.5)


def test_a_curve_may_have_no_point():
    assert drawn([(10, None)]) == []


def test_a_logarithmic_axis_needs_no_value_above_0():
    for value in (None, 0.0, 1.0):
        curve = Curve("a", [(10, value), (20, value)], "C0")
        assert curves_figure("title", "unit", [curve], resumed=[15], scale="log").startswith(b"\x89PNG")
