"""`python -m client VERB`: the same verbs as the console script `exollama`."""

import sys

from client.cli import main

if __name__ == "__main__":
    sys.exit(main())
