"""Look at the studies of a database in Optuna Dashboard: python dashboards/serve.py [URL]."""

import sys

from axsearch import AxsearchError, serve

DEMO = "sqlite:///.cache/movie_reviews/studies.db"

try:
    serve(
        sys.argv[1] if len(sys.argv) > 1 else DEMO,
        on_ready=lambda address: print(f"Optuna Dashboard on {address}", file=sys.stderr),
    )
except AxsearchError as error:
    sys.exit(f"{error}")
