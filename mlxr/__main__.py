"""`python -m mlxr` is the same as `mlxr`."""

import sys

from .cli.main import main

sys.exit(main())
