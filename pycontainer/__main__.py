"""`python -m pycontainer`: see pycontainer.cli."""

import sys

from pycontainer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
