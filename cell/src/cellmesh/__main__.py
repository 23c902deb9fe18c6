"""``python -m cellmesh``: the ``cellmesh`` command."""

import sys

from cellmesh.cli import main

sys.exit(main())
