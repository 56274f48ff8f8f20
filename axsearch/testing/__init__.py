"""Contracts and helpers for the tests of axsearch and of members that are added to it.

The contracts are classes of pytest tests. A subclass names one member, which axsearch must find:
its file lies in the folder of such members or in a folder on that package's ``__path__``. The tests
of some members also need entries in the data of this package:

- ``RuntimeContract`` in :mod:`runtimes`, ``SamplerContract`` in :mod:`samplers` and
  ``FigureContract`` in :mod:`figures` need none.
- ``ApproximationContract`` in :mod:`approximations` needs none in a family of axsearch. For sites
  that none of them has, name a family of your own, which needs the next entries.
- ``ArchitectureContract`` in :mod:`architectures` makes a tiny model of the family. Configuration
  fields that differ from ``SIZES`` of :mod:`models` have to be in ``OWN_SIZES`` there, and the type
  of a vision model in ``PICTURES``. If its attention adds a bias or rotates queries and keys,
  ``_bias`` or ``_attend`` of :mod:`references` needs a branch for it.
- ``TaskKindContract`` in :mod:`kinds` needs an entry in ``HEAD_CONFIGS`` and a branch of ``rows``
  in :mod:`samples`. If the kind's answers are not its targets, ``_perfect`` needs a
  branch that makes them.

Import contracts after ``pytest.register_assert_rewrite("axsearch.testing")``, so that pytest
explains failed assertions in them.

The rest: a tiny BERT with its tokenizer and texts (:mod:`text`), tiny models of every family
(:mod:`models`), data of every kind of task (:mod:`samples`), problems whose costs and damage are
known (:mod:`problems`), made-up studies (:mod:`studies`), exports (:mod:`exports`), slow references
(:mod:`references`), and processes that start in milliseconds (:mod:`processes`). pytest is needed;
nothing else of axsearch imports this package.
"""
