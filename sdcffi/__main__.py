"""`python -m sdcffi` is the command line `sdcffi`."""

import sys

from .cli import main

sys.exit(main())
