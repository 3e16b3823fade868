"""``python -m electra_kernels``: the command line."""

import sys

from electra_kernels.cli import main

sys.exit(main())
