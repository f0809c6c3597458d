"""`python -m showtell` is `showtell`."""

import sys

from showtell.cli import main

if __name__ == "__main__":
    sys.exit(main())
