"""Questions about long texts: a smaller extractive reader.

Model and data are names on the hub or local folders; what is not given is as below:
python studies/long_contexts.py [MODEL [DATA [FOLDER [TRIALS]]]]
"""

import sys

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from axsearch import Study, evaluate_front, export_model, finetune, search

DEFAULTS = ["google-bert/bert-base-uncased", "rajpurkar/squad", "questions", "60"]
MODEL, DATA, FOLDER, TRIALS = [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]]
BASE, STORAGE, NAME = f"{FOLDER}/base", f"sqlite:///{FOLDER}/studies.db", "questions"

# A pretrained model gets the head of its task and is trained; skip this if yours was.
tuned = finetune(MODEL, DATA, BASE, epochs=2, max_length=384)
print(f"base: {tuned.metric} {tuned.validation.value:.4f} on validation")

# Contexts longer than the model reads are read in windows that overlap; the best span of all of
# them is the answer.
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

tokenizer = AutoTokenizer.from_pretrained(small, trust_remote_code=True)
reader = AutoModelForQuestionAnswering.from_pretrained(small, trust_remote_code=True).eval()
context = "The first of the two bridges was built by monks in 1342."
inputs = tokenizer(
    "Who built the bridge?", context, return_offsets_mapping=True, return_tensors="pt"
)
places = inputs.pop("offset_mapping")[0]
with torch.inference_mode():
    answer = reader(**inputs)
of_context = torch.tensor([part == 1 for part in inputs.sequence_ids(0)])
scores = answer.start_logits[0][:, None] + answer.end_logits[0]
allowed = (of_context[:, None] & of_context).triu()
first, last = divmod(int(scores.masked_fill(~allowed, -torch.inf).argmax()), len(of_context))
print(context[places[first][0] : places[last][1]])
