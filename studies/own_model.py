"""A fine-tuned model and data of your own: what to name where nothing is recognised.

python studies/own_model.py MODEL DATA TEXT_COLUMNS LABEL_COLUMN [LABELS [FOLDER [TRIALS]]]
python studies/own_model.py my-model tickets.csv subject,body kind complaint=0,praise=1
"""

import sys

from axsearch import Study, explain_trial, export_model, search, verify_export, write_report

if not 5 <= len(sys.argv) <= 8:
    raise SystemExit(__doc__)
MODEL, DATA, TEXT_COLUMNS, LABEL_COLUMN = sys.argv[1:5]
LABELS, FOLDER, TRIALS = [*sys.argv[5:], *["", "own", "60"][len(sys.argv) - 5 :]]
STORAGE, NAME = f"sqlite:///{FOLDER}.db", "own"

# What is read is printed first: columns, classes, how many texts are cut, and how many words the
# tokenizer does not know. A base that is no better than a constant answer is refused.
search(
    MODEL,
    DATA,
    storage=STORAGE,
    study=NAME,
    trials=int(TRIALS),
    text_columns=TEXT_COLUMNS.split(","),
    label_column=LABEL_COLUMN,
    labels=LABELS.split(",") if LABELS else None,  # only if the head calls its classes otherwise
    max_drop=0.05,  # the models that you would take
)

study = Study.open(STORAGE, NAME)
chosen = study.pick(max_drop=0.02, by="latency")
for sentence in explain_trial(study, chosen.trial).sentences:
    print(sentence)
small = export_model(study, chosen.trial, f"{FOLDER}-small")
print(f"difference to the searched model: {verify_export(str(small)).difference:.1e}")
print(write_report(study, f"{FOLDER}-report.html"))
