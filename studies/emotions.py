"""None, one or several labels for a text, here emotions: a smaller multi-label classifier.

Model and data are names on the hub or local folders; what is not given is as below:
python studies/emotions.py [MODEL [DATA [FOLDER [TRIALS]]]]
"""

import sys

from transformers import pipeline

from axsearch import Study, evaluate_front, export_model, finetune, search

GO_EMOTIONS = "google-research-datasets/go_emotions:simplified"
DEFAULTS = [
    "google-bert/bert-base-uncased",
    GO_EMOTIONS,
    "emotions",
    "60",
]
MODEL, DATA, FOLDER, TRIALS = [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]]
BASE, STORAGE, NAME = f"{FOLDER}/base", f"sqlite:///{FOLDER}/studies.db", "emotions"

# A pretrained model gets the head of its task and is trained; skip this if yours was.
tuned = finetune(MODEL, DATA, BASE, epochs=3)
print(f"base: {tuned.metric} {tuned.validation.value:.4f} on validation")

# Labels are lists, or several columns of 0 and 1; metric="macro_f1" gives each label one vote.
search(BASE, DATA, storage=STORAGE, study=NAME, trials=int(TRIALS))
study = Study.open(STORAGE, NAME)
evaluate_front(study)  # on examples by which no model was chosen
study.refresh()
print(f"base: {study.baseline.holdout_accuracy:.4f} on holdout")
for model in study.front():
    speed = 1 / (model.latency_ratio or 1)
    print(f"trial {model.trial}: {model.holdout_accuracy:.4f}, {speed:.2f}x as fast, ", end="")
    print(f"{model.size_ratio:.2f} of the bytes")

chosen = study.pick(max_drop=0.01, by="latency")
small = export_model(study, chosen.trial, f"{FOLDER}/trial-{chosen.trial}")
print(f"chosen: trial {chosen.trial} in {small}")

classify = pipeline("text-classification", str(small), trust_remote_code=True, top_k=None)
print(classify("Thank you, that is the best news of the year!"))  # a probability for each label
