"""Compare fronts in one figure: python dashboards/compare.py OUT.html URL STUDY [STUDY …].

Each study has one front, and one more for each other machine or scenario that `axsearch remeasure`
has timed it in. If models or data differ, accuracy is shown as the change from each base. URL
is the database, such as sqlite:///.cache/movie_reviews/studies.db.
"""

import sys

from axsearch import AxsearchError, Study, compare_fronts

if len(sys.argv) < 4:
    sys.exit(__doc__.splitlines()[0])
out, storage, *names = sys.argv[1:]
try:
    compare_fronts([Study.open(storage, name) for name in names]).write_html(out)
except (AxsearchError, OSError) as error:
    sys.exit(f"{error}")
print(out)
