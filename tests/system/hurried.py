"""The command line, looking twice a second whether what boots is still there: for a test that deletes it meanwhile."""

import sys

from client import boot, cli

LOOK_S = 0.5

if __name__ == "__main__":
    boot.LOOK_S = LOOK_S
    sys.exit(cli.main())
