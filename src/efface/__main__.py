"""``python -m efface``: the command line, without the modules of the folder it is started in."""

import sys

if sys.path and not sys.flags.safe_path:
    # ``python -m`` puts the working folder first, and a model's folder may hold a torch.py.
    del sys.path[0]

from efface.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
