"""Entry point of ``python -m chaos``."""

import sys

from chaos.run import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
