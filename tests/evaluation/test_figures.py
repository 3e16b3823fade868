import subprocess
import sys

from electra_kernels.evaluation import figures

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
