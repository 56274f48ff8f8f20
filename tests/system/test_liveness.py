"""Whether a worker still runs, by its name."""

from __future__ import annotations

from axsearch.system.liveness import is_alive, is_dead, worker_name
from axsearch.testing.processes import Process


def test_a_worker_lives_as_long_as_its_process() -> None:
    assert is_alive(worker_name())
    assert not is_dead(worker_name())
    say = (
        "from axsearch.system.liveness import worker_name\n"
        "print(worker_name(), flush=True); input()"
    )
    with Process("-c", say) as process:
        other = process.stdout.readline().strip()
        assert other != worker_name()
        assert is_alive(other)
        assert not is_dead(other)
        process.kill()
        while process.poll() is None:
            assert other  # a zombie until it is waited for, and dead all the same
    assert is_dead(other)
    assert not is_alive(other)


def test_another_process_with_the_same_id_is_another_worker() -> None:
    host, where, pid, start = worker_name().rsplit("|", 3)
    assert is_dead(f"{host}|{where}|{pid}|{int(start) + 1}")
    assert not is_alive(f"{host}|{where}|{pid}|{int(start) + 1}")
    assert start.isdecimal()  # ticks since the boot: no clock that is set moves them


def test_nothing_is_known_of_workers_elsewhere() -> None:
    host, _, pid, start = worker_name().rsplit("|", 3)
    assert not is_dead(f"{host}|another boot|{pid}|{int(start) + 1}")
    assert not is_dead("no such name")
    assert not is_alive(f"{host}|another boot|{pid}|{start}")
    assert not is_alive("no such name")
