"""``python -m electra_kernels``: the command line."""

import sys

from electra_kernels.commands.main import main

sys.exit(main())
