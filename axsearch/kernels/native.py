"""The CPU kernels: compiled on first use."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from axsearch.kernels.native_source import SOURCE
from axsearch.system.cache import is_private, private_folder

LOGGER = logging.getLogger("axsearch.kernels")
SWITCH = "AXSEARCH_NATIVE"
FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17"),
    *("-Xpreprocessor", "-fopenmp", "-shared", "-fPIC"),
)
X86_FLAGS = ("-mprefer-vector-width=512",)
COMPILE_SECONDS = 120


class NativeTile(ctypes.Structure):
    """``Tile`` of the C++ source, field by field."""

    _fields_ = (
        ("scores", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("n_heads", "queries", "keys", "first_head")),
        *((name, ctypes.c_int64) for name in ("first_query", "total_queries", "heads_per_batch")),
        *((name, ctypes.c_int64) for name in ("causal", "k", "hard", "threads")),
        ("mask", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("mask_kind", "mask_batch", "mask_head")),
        *((name, ctypes.c_int64) for name in ("mask_query", "mask_key")),
        ("value", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("value_keys", "width")),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("out_batch", "out_head", "out_query")),
        ("dropped", ctypes.c_void_p),
        ("keep_factor", ctypes.c_float),
        ("kept", ctypes.c_void_p),
        ("index", ctypes.c_void_p),
    )


class NativeBackward(ctypes.Structure):
    """``Backward`` of the C++ source, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "grad_out")),
        *((name, ctypes.c_void_p) for name in ("kept", "index")),
        *((name, ctypes.c_void_p) for name in ("grad_query", "grad_key", "grad_value")),
        *((name, ctypes.c_int64) for name in ("n_heads", "queries", "keys", "width")),
        *((name, ctypes.c_int64) for name in ("value_width", "k", "threads")),
        *((name, ctypes.c_float) for name in ("scale", "keep_factor")),
    )


def native_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None if they are turned off or cannot be compiled.

    ``AXSEARCH_NATIVE=0`` turns them off. They need Linux and a C++ compiler (``CXX``, otherwise
    ``c++`` or ``g++``); compiling takes about 3 s, once for each machine.
    """
    return None if os.environ.get(SWITCH, "1") == "0" else _built()


@functools.cache
def _built() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        named = shlex.split(os.environ.get("CXX", ""))
        compilers, options = (named[:1], named[1:]) if named else (["c++", "g++"], [])
        compiler = next((found for name in compilers if (found := shutil.which(name))), None)
        if compiler is None:
            _warn(f"no C++ compiler ({' or '.join(compilers)}) was found; install g++")
            return None
        x86 = X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else ()
        command = [compiler, *options, *FLAGS, *x86, "-x", "c++", "-"]
        _share_openmp()
        folder = private_folder("kernels")
        if folder is not None:
            return _loaded(command, folder)
        with tempfile.TemporaryDirectory(prefix="axsearch-kernels-") as scratch:
            return _loaded(command, Path(scratch))
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        _warn(f"the C++ kernels could not be compiled: {said.partition(chr(10))[0]}")
        return None


def _share_openmp() -> None:
    # The kernels name no OpenMP library of their own (-Xpreprocessor hides -fopenmp from the
    # linker) and take PyTorch's: two pools of threads that spin for the same cores would be slower
    # than plain PyTorch. scikit-learn brings another one, so PyTorch's own folder goes first.
    maps = Path("/proc/self/maps").read_text()
    found = sorted(set(re.findall(r"(/\S*/lib(?:gomp|iomp5|omp)\b\S*\.so\S*)", maps)))
    own = [path for path in found if Path(torch.__file__).parent in Path(path).parents]
    if not found:
        raise OSError("PyTorch runs without OpenMP here")
    ctypes.CDLL((own or found)[0], mode=ctypes.RTLD_GLOBAL)


def _warn(reason: str) -> None:
    LOGGER.warning(
        "Top-k attention runs in plain PyTorch, which is several times slower on a CPU: %s.", reason
    )


def _loaded(command: list[str], folder: Path) -> ctypes.CDLL:
    # -march=native binds a library to the processor; a home folder may be shared by several.
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    processor = "\n".join(sorted({line for line in cpuinfo if line.startswith(wanted)}))
    asking = [*command[: command.index(FLAGS[0])], "--version"]
    version = subprocess.run(
        asking, capture_output=True, text=True, check=True, errors="replace", timeout=60
    ).stdout
    key = hashlib.sha256("\0".join([SOURCE, *command, version, processor]).encode()).hexdigest()
    # The name has hashes of the source and of the result: loading a library that a full disk had
    # truncated would end the process.
    known = [path for path in folder.glob(f"topk-{key[:32]}-*.so") if _is_whole(path)]
    return _opened(known[0] if known else _compiled(command, folder, key[:32]))


def _compiled(command: list[str], folder: Path, key: str) -> Path:
    handle, name = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    partial = Path(name)
    try:
        subprocess.run(
            [*command, "-o", name], input=SOURCE, capture_output=True, text=True, check=True,
            errors="replace", timeout=COMPILE_SECONDS,
        )  # fmt: skip
        partial.chmod(0o700)
        library = folder / f"topk-{key}-{_digest(partial)}.so"
        return partial.replace(library)  # at once, whatever other workers do
    finally:
        partial.unlink(missing_ok=True)


def _opened(library: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(library))
    for function in (opened.axsearch_topk, opened.axsearch_topk_backward):
        function.restype = None
    return opened


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _is_whole(library: Path) -> bool:
    # Files in this folder are executed, so nobody else may write to it.
    return is_private(library) and library.stem.endswith(_digest(library))
