"""`python -m reconciler.simulator KIND ARGS...`; everything is in the package."""

from __future__ import annotations

import sys

from reconciler.simulator import main

sys.exit(main(sys.argv[1:]))
