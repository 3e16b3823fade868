"""The tests in this folder need the library with fibers, which ``python tests/cuda_on_cpu`` builds and loads."""

import sys

collect_ignore = [] if "fiber_backend" in sys.modules else ["test_fibers.py", "test_kernels.py"]
