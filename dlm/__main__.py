"""``python -m dlm``."""

import os
import sys

# Python puts the working folder first, and what lies there may be anybody's (for one's own: PYTHONPATH).
# Before anything else is imported. (`dlm` never has the folder, nor has `python -P -m dlm`.)
if not sys.flags.safe_path and sys.path[:1] in ([""], [os.path.realpath(".")]):
    del sys.path[0]

from dlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
