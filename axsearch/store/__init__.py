"""The store: axsearch's own tables beside Optuna's, in one SQL database."""
