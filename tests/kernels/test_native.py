"""The compiled kernels: what they select, how they are compiled, and what happens without them."""

from __future__ import annotations

import functools
import logging
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from axsearch.kernels import native, native_topk
from axsearch.kernels.native import SWITCH, native_library
from axsearch.kernels.native_topk import native_select
from axsearch.kernels.topk_attention import topk_attention
from axsearch.testing.processes import Process, run

Compiler = Callable[[str], None]

LOAD = "from axsearch.kernels.native import native_library as f; assert f() is not None"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux only")
needs_library = pytest.mark.skipif(
    native_library() is None, reason="the compiled kernels cannot be had on this machine"
)


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of compiled kernels, which does not exist yet; nothing is compiled yet either."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    forget(monkeypatch)
    return tmp_path / "cache" / "axsearch" / "kernels"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library compiled once, quickly, for compilers that only pretend."""
    library = tmp_path_factory.mktemp("built") / "kernels.so"
    compiler = next(iter(filter(None, map(which_compiler, ("c++", "g++", "clang++")))), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ["-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-x", "c++", "-", "-o"]
    subprocess.run(
        [compiler, *flags, str(library)], input=native.SOURCE, text=True, check=True, timeout=120
    )
    return library


@pytest.fixture
def compiler(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Sets CXX to a script that notes that it was called and then does as it is told.

    ``$out`` is what it has to write, and ``$built`` is a library that works.
    """
    script = tmp_path / "compiler"

    def use(body: str) -> None:
        script.write_text(
            "#!/bin/sh\n"
            'case "$*" in *--version*) echo 1.0; exit;; esac\n'
            'while [ $# -gt 0 ]; do if [ "$1" = -o ]; then out=$2; fi; shift; done\n'
            f"echo $out >> {tmp_path / 'calls'}\nbuilt={built}\ncat > /dev/null\n{body}\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))

    use("cp $built $out")
    return use


def which_compiler(name: str) -> str | None:
    found = (Path(folder) / name for folder in os.environ.get("PATH", "").split(":"))
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if in a new process: nothing is loaded yet."""
    monkeypatch.setattr(native, "_built", functools.cache(native._built.__wrapped__))


def calls(tmp_path: Path) -> list[Path]:
    """Where the pretended compiler was told to write to, call by call."""
    notes = tmp_path / "calls"
    return [Path(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def assert_attends() -> None:
    """Top-k attention gives what plain PyTorch gives in float64."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 150, 8, generator=generator) for _ in range(3))
    found = topk_attention(query, key, value, 5)
    expected = topk_attention(query.double(), key.double(), value.double(), 5)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def assert_selects(scores: Tensor, k: int) -> None:
    """The k largest, each with its place, and no place twice."""
    kept, index = native_select(scores.clone(), k)
    places = index.long()
    expected = scores.topk(k, -1).values
    torch.testing.assert_close(kept.sort(-1, descending=True).values, expected, rtol=0, atol=0)
    torch.testing.assert_close(scores.gather(-1, places), kept, rtol=0, atol=0)
    assert (places.sort(-1).values.diff(dim=-1) > 0).all()


DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "few levels": lambda x: x.round(),
    "one level": lambda x: torch.full_like(x, -2.5),
    "sorted": lambda x: x.sort(-1).values,
    "reversed": lambda x: x.sort(-1, descending=True).values,
    "zeros of both signs": lambda x: torch.where(x > 0, 0.0, -0.0),
    "denormal": lambda x: x * 1e-42,
    "huge": lambda x: x * 1e38,
    "all sizes": lambda x: x.sign() * 10 ** (x * 20),
    "mostly forbidden": lambda x: torch.where(x > 1.5, x, -torch.inf),
    "forbidden": lambda x: torch.full_like(x, -torch.inf),
    "some infinite": lambda x: torch.where(x > 2, torch.inf, x),
    "negative": lambda x: -x.abs() - 1000,
    "one far away": lambda x: torch.where(x == x.amax(-1, keepdim=True), 1e30, x),
    "largest in one group": lambda x: x + 100 * (torch.arange(x.shape[-1]) % 64 == 3),
}


@needs_library
class TestSelection:
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_against_torch(self, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        for n in (2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 513, 1030, 2049):
            scores = DISTRIBUTIONS[name](torch.randn(5, n, generator=generator)).contiguous()
            for k in (1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 100, n // 8, n // 2, n - 1):
                if 1 <= k < n:
                    assert_selects(scores, k)

    @pytest.mark.parametrize("k", [1, 16, 17, 40])
    def test_every_length_around_the_switch(self, k: int) -> None:
        generator = torch.Generator().manual_seed(k)
        groups = -(-4 * k // 64) * 64
        for n in range(2 * groups - 3, 2 * groups + 70, 3):
            assert_selects(torch.randn(3, n, generator=generator), k)

    @pytest.mark.parametrize("n", [20, 200])
    def test_ties_go_to_the_lowest_places(self, n: int) -> None:
        scores = torch.zeros(1, n)
        scores[0, n // 2] = 1.0
        _, index = native_select(scores, 4)
        assert sorted(index[0].tolist()) == [0, 1, 2, n // 2]

    @pytest.mark.parametrize("n", [20, 200])
    @pytest.mark.parametrize("bits", [0x7FC00000, -0x400000, 0x7FFFFFFF, 0x7F800001])
    def test_nan_of_any_bits_is_found(self, bits: int, n: int) -> None:
        scores = torch.zeros(4, n)
        scores[2, n - 1] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
        kept, _ = native_select(scores, 4)
        assert kept.isnan().all(-1).tolist() == [False, False, True, False]

    def test_without_avx512(self, cache: Path, compiler: Compiler) -> None:
        assert native_library() is not None  # ``built`` is not bound to this processor
        generator = torch.Generator().manual_seed(0)
        for n in (17, 128, 513):
            for k in (1, 3, 16):
                assert_selects(torch.randn(5, n, generator=generator), k)
        assert_attends()

    @pytest.mark.parametrize("options", [{}, {"causal": True}, {"mode": "hard"}], ids=str)
    def test_gradients_without_avx512(
        self, options: dict[str, Any], cache: Path, compiler: Compiler
    ) -> None:
        assert native_library() is not None
        generator = torch.Generator().manual_seed(1)
        drawn = [torch.randn(1, 2, 150, 24, generator=generator) for _ in range(3)]
        mask = torch.rand(1, 1, 1, 150, generator=generator) < 0.7
        found, expected = [], []
        for dtype, grads in ((torch.float32, found), (torch.float64, expected)):
            inputs = [tensor.to(dtype).requires_grad_() for tensor in drawn]
            output = topk_attention(*inputs, 5, mask=mask, **options)
            grads += [output, *torch.autograd.grad(output.square().sum(), inputs)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


@needs_library
class TestCompiling:
    def test_in_a_new_folder(self, cache: Path) -> None:
        assert native_library() is not None
        assert [path.suffix for path in cache.iterdir()] == [".so"]
        assert_attends()

    def test_folder_is_for_its_owner_only(self, cache: Path, compiler: Compiler) -> None:
        native_library()
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700

    def test_once_a_process(self, cache: Path, compiler: Compiler, tmp_path: Path) -> None:
        assert native_library() is native_library()
        assert len(calls(tmp_path)) == 1

    def test_once_a_machine(
        self, cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        native_library()
        forget(monkeypatch)
        assert native_library() is not None
        assert len(calls(tmp_path)) == 1

    @pytest.mark.parametrize(
        ("name", "value"), [("SOURCE", native.SOURCE + "//"), ("FLAGS", (*native.FLAGS, "-g"))]
    )
    def test_again_when_something_changes(
        self,
        name: str,
        value: object,
        cache: Path,
        compiler: Compiler,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        native_library()
        forget(monkeypatch)
        monkeypatch.setattr(native, name, value)
        assert native_library() is not None
        assert len(calls(tmp_path)) == 2
        assert len(list(cache.iterdir())) == 2

    def test_home_is_used_without_xdg(
        self, cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert native_library() is not None
        assert len(list((tmp_path / "home/.cache/axsearch/kernels").iterdir())) == 1

    @pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
    def test_not_into_a_folder_that_others_may_write_to(
        self, mode: int, cache: Path, compiler: Compiler, tmp_path: Path
    ) -> None:
        cache.mkdir(parents=True)
        cache.chmod(mode)
        assert native_library() is not None
        assert list(cache.iterdir()) == []
        (folder,) = (path.parent for path in calls(tmp_path))
        assert folder.parent == tmp_path / "temporary"
        assert not folder.exists()  # a library stays loaded without its file

    @pytest.mark.skipif(os.getuid() != 0, reason="needs a folder of another user")
    def test_not_into_a_folder_of_another(
        self, cache: Path, compiler: Compiler, tmp_path: Path
    ) -> None:
        cache.mkdir(parents=True, mode=0o700)
        os.chown(cache, 12345, -1)
        assert native_library() is not None
        assert list(cache.iterdir()) == []

    def test_planted_library_is_not_loaded(
        self, cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        native_library()
        (library,) = cache.iterdir()
        library.unlink()  # it is loaded: its bytes must stay
        library.write_bytes(b"planted")
        cache.chmod(0o777)
        forget(monkeypatch)
        assert native_library() is not None
        assert len(calls(tmp_path)) == 2

    def test_compiler_with_options(
        self, cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CXX", f"{os.environ['CXX']} -g0")
        assert native_library() is not None
        assert len(calls(tmp_path)) == 1

    def test_relative_cache_is_ignored(
        self, cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        assert native_library() is not None
        assert not (tmp_path / "relative").exists()

    def test_blank_cxx_is_no_cxx(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("CXX", " ")
        monkeypatch.setenv("PATH", "")
        assert native_library() is None
        assert "(c++ or g++)" in caplog.text

    @pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null"])
    def test_home_that_cannot_be_written_to(
        self, home: str, cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        assert native_library() is not None

    def test_no_home(
        self, cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", none)
        assert native_library() is not None

    def test_leaves_no_other_file(self, cache: Path, compiler: Compiler, tmp_path: Path) -> None:
        native_library()
        assert len(list(cache.iterdir())) == 1
        assert list((tmp_path / "temporary").iterdir()) == []

    def test_two_processes_at_once(self, cache: Path, compiler: Compiler, tmp_path: Path) -> None:
        # Each waits until the other compiles as well, however slowly it starts.
        both = f"[ $(wc -l < {tmp_path / 'calls'}) -ge 2 ]"
        compiler(f"cp $built $out; for i in $(seq 300); do {both} && exit; sleep 0.1; done; exit 1")
        workers = [Process("-c", LOAD) for _ in range(2)]
        told = [worker.communicate(60) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], told
        assert len(calls(tmp_path)) == 2
        assert len(list(cache.iterdir())) == 1

    def test_threads_at_once(self, cache: Path, compiler: Compiler) -> None:
        compiler("cp $built $out; sleep 0.1")
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: native_library(), range(4)))
        assert all(isinstance(library, CDLL) for library in found)
        assert len(list(cache.iterdir())) == 1

    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
    def test_library_that_was_cut_off_is_made_again(
        self, kept: float, cache: Path, compiler: Compiler, tmp_path: Path
    ) -> None:
        # In another process, since this one would find the library it has already loaded.
        run("-c", LOAD, check=True)
        (library,) = cache.iterdir()
        whole = library.read_bytes()
        library.write_bytes(whole[: int(kept * len(whole))])  # as a full disk may leave it
        run("-c", LOAD, check=True)
        assert len(calls(tmp_path)) == 2
        assert library.read_bytes() == whole

    def test_library_that_others_may_write_to_is_not_loaded(
        self, cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        native_library()
        (library,) = cache.iterdir()
        library.chmod(0o722)
        forget(monkeypatch)
        assert native_library() is not None
        assert len(calls(tmp_path)) == 2

    def test_takes_the_openmp_of_torch(self, cache: Path) -> None:
        run("-c", LOAD, check=True)
        (library,) = cache.iterdir()
        assert b"libgomp.so" not in library.read_bytes()


class TestWithout:
    def warned(self, caplog: pytest.LogCaptureFixture) -> str:
        """The one warning, after the kernels were asked for twice."""
        with caplog.at_level(logging.WARNING, "axsearch.kernels"):
            assert native_library() is None
            assert_attends()
        (record,) = caplog.records
        assert record.name == "axsearch.kernels"
        return record.getMessage()

    def test_switched_off(
        self, cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(SWITCH, "0")
        assert native_library() is None
        assert not native_topk.runs_natively(torch.zeros(1))
        assert_attends()
        assert calls(tmp_path) == []

    def test_switched_off_without_a_warning(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv(SWITCH, "0")
        monkeypatch.setenv("CXX", "/nowhere/c++")
        assert native_library() is None
        assert caplog.records == []

    @pytest.mark.parametrize("name", ["/nowhere/c++", "no-such-compiler"])
    def test_missing_compiler(
        self,
        name: str,
        cache: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("CXX", name)
        assert "no C++ compiler" in self.warned(caplog)

    def test_no_compiler_on_the_path(
        self,
        cache: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert "no C++ compiler" in self.warned(caplog)

    def test_failing_compiler(
        self, cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
    ) -> None:
        compiler("echo no such flag >&2; exit 1")
        assert "could not be compiled: no such flag." in self.warned(caplog)

    def test_cxx_that_cannot_be_read(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("CXX", "c++ 'x")
        assert "No closing quotation" in self.warned(caplog)

    def test_library_without_the_kernels(
        self, cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
    ) -> None:
        compiler("echo 'int other;' | c++ -shared -fPIC -x c++ - -o $out")
        assert "axsearch_topk" in self.warned(caplog)

    def test_failing_compiler_that_says_nothing(
        self, cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
    ) -> None:
        compiler("exit 1")
        assert "could not be compiled" in self.warned(caplog)

    @pytest.mark.parametrize("body", ["echo x > $out; exit 1", "echo x > $out; kill -9 $$"])
    def test_failing_compiler_leaves_nothing(
        self, body: str, cache: Path, compiler: Compiler
    ) -> None:
        compiler(body)
        assert native_library() is None
        assert list(cache.iterdir()) == []

    def test_compiler_that_writes_other_bytes_than_utf8(
        self, cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
    ) -> None:
        compiler(r"printf 'f\374r alle: Fehler' >&2; exit 1")
        assert "could not be compiled" in self.warned(caplog)

    def test_compiler_that_hangs(
        self,
        cache: Path,
        compiler: Compiler,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(native, "COMPILE_SECONDS", 0.2)
        compiler("exec sleep 20")
        assert "timed out" in self.warned(caplog)

    def test_compiler_that_writes_no_library(
        self, cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
    ) -> None:
        compiler("echo nonsense > $out")
        assert "could not be compiled" in self.warned(caplog)

    def test_no_folder_to_write_to(
        self,
        cache: Path,
        compiler: Compiler,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
        monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
        assert "could not be compiled" in self.warned(caplog)

    def test_other_systems(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(native.sys, "platform", "darwin")
        assert native_library() is None
