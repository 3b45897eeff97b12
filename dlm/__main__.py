"""``python -m dlm``."""

import os
import sys

# Python puts the working folder first, and what lies there may be anybody's: a part of one's own is named by PYTHONPATH.
# Before anything else is imported. (`dlm` itself never has it, nor has `python -P -m dlm`.)
if not sys.flags.safe_path and sys.path[:1] in ([""], [os.path.realpath(".")]):
    del sys.path[0]

from dlm.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
