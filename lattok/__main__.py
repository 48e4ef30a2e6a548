"""`python -m lattok`."""

import sys

from lattok.cli import main

sys.exit(main())
