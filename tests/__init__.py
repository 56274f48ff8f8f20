import os

import pytest

# Before torch reads them. Tests run side by side: threads that look for work in a loop, which is
# how OpenMP's threads wait, would take the cores from other processes.
for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
    os.environ.setdefault(name, value)

pytest.register_assert_rewrite("axsearch.testing", "tests.common_fixtures")
