"""`python -m pyllama`: the same as the command `pyllama`."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
