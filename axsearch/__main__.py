"""``python -m axsearch``."""

from axsearch.cli import main

main()
