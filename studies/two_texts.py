"""Two texts, of which one may follow from the other: a smaller model of entailment.

Model and data are names on the hub or local folders; what is not given is as below:
python studies/two_texts.py [MODEL [DATA [FOLDER [TRIALS]]]]
"""

import sys

from transformers import pipeline

from axsearch import Study, evaluate_front, export_model, finetune, search

DEFAULTS = ["google-bert/bert-base-uncased", "nyu-mll/glue:rte", "entailment", "60"]
MODEL, DATA, FOLDER, TRIALS = [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]]
BASE, STORAGE, NAME = f"{FOLDER}/base", f"sqlite:///{FOLDER}/studies.db", "entailment"

# A pretrained model gets the head of its task and is trained; skip this if yours was.
tuned = finetune(MODEL, DATA, BASE, epochs=3)
print(f"base: {tuned.metric} {tuned.validation.value:.4f} on validation")

# Pairs of columns such as sentence1 and sentence2, premise and hypothesis or query and passage are
# recognised; others are named: text_columns=["title", "body"].
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

classify = pipeline("text-classification", str(small), trust_remote_code=True)
pair = {"text": "A dog runs in the park.", "text_pair": "An animal moves."}
print(classify(pair))
