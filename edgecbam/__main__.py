"""``python -m edgecbam``: the command line, where its script is not on the path."""

import sys

from edgecbam.cli import main

sys.exit(main())
