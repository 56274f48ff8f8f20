"""Compare fronts in one figure: python dashboards/compare.py OUT.html URL STUDY [STUDY …].

Each study has one front, and one more for each other machine or scenario that `axsearch remeasure`
has timed it in. Where models or data differ, accuracy is shown as the change from each base. URL
is the database, such as sqlite:///.cache/movie_reviews/studies.db.
"""

import sys

from axsearch import AxsearchError, Study
from axsearch.figures.fronts import fronts_figure
from axsearch.gallery import fronts

if len(sys.argv) < 4:
    sys.exit(__doc__.splitlines()[0])
out, storage, *names = sys.argv[1:]
try:
    studies = [Study.open(storage, name) for name in names]
    found = {label: front for study in studies for label, front in fronts(study).items()}
except AxsearchError as error:
    sys.exit(f"{error}")
same = len({(s.spec.model_fingerprint, s.spec.splits["search"]) for s in studies}) == 1
figure = fronts_figure(found, cost="latency", metric=studies[0].spec.metric, change=not same)
figure.write_html(out)
print(out)
