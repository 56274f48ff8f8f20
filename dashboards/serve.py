"""Look at the studies of a database in Optuna Dashboard: python dashboards/serve.py [URL]."""

import sys

from axsearch import serve

DEMO = "sqlite:///.cache/movie_reviews/studies.db"

serve(sys.argv[1] if len(sys.argv) > 1 else DEMO, on_ready=print)
