"""Contracts and helpers for the tests of axsearch and of what extends it.

The contracts are classes of pytest tests. Subclass one to test a member of yours as axsearch's own
are tested: ``ApproximationContract`` in :mod:`approximations`, ``ArchitectureContract`` in
:mod:`architectures`, ``RuntimeContract`` in :mod:`runtimes`, ``SamplerContract`` in
:mod:`samplers`, ``TaskKindContract`` in :mod:`kinds`, ``FigureContract`` in :mod:`figures`. For
pytest to explain what fails in them, ``pytest.register_assert_rewrite("axsearch.testing")`` has to
come before their import.

The rest: a tiny BERT with its tokenizer and texts (:mod:`text`), tiny models of every family
(:mod:`models`), data of every kind of task (:mod:`samples`), problems whose costs and damage are
known (:mod:`problems`), made-up studies (:mod:`studies`), exports (:mod:`exports`), slow references
(:mod:`references`), and processes that start in milliseconds (:mod:`processes`). pytest is needed;
nothing else of axsearch imports this package.
"""
