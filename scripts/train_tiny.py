"""`dlm train tiny` under its old name, as torchrun starts it: torchrun --nproc-per-node 2 scripts/train_tiny.py."""

import sys

from dlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "tiny", *sys.argv[1:]]))
