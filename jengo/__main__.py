"""`python -m jengo`."""

import sys

from jengo.commands import main

if __name__ == "__main__":
    sys.exit(main())
