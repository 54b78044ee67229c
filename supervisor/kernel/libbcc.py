"""What BCC and its library are asked to do. The only module that imports bcc."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from supervisor.errors import Unavailable
from supervisor.kernel import btf
from supervisor.kernel.maps import KernelMap, MapInfo
from supervisor.kernel.plans import Mechanism
from supervisor.kernel.reasons import Refused, of_error

# Values of the kernel's enum bpf_prog_type.
_PROGRAM_TYPE: Final[dict[Mechanism, int]] = {
    "kprobe": 2,
    "kretprobe": 2,
    "tracepoint": 5,
    "raw tracepoint": 17,
    "system call": 17,
    "fentry": 26,
    "fexit": 26,
}


def compiled(name: str, text: str, flags: list[str]) -> Any:
    """A module; none of its functions is loaded yet. Raises Unavailable."""
    import bcc

    class Module(bcc.BPF):  # type: ignore[misc]
        """A module that attaches nothing by itself on account of a function's name."""

        def _trace_autoload(self) -> None:
            return

    try:
        return Module(text=text.encode(), cflags=flags)
    except Exception as error:  # BCC raises nothing more precise
        raise Unavailable(f"{name} does not compile here: {error}") from error


def maps(module: Any, shared: Mapping[str, KernelMap]) -> dict[str, KernelMap]:
    """Every map that the module made, by name, with a descriptor each."""
    lib = _library()
    # BCC's own module does not declare these two; undeclared, ctypes cuts pointers to 32 bits.
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_leaf_size_id.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_leaf_size_id.restype = ctypes.c_size_t
    lib.bpf_table_fd_id.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    found: dict[str, KernelMap] = {}
    for number in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, number).decode()
        if name in shared:
            continue
        handle = lib.bpf_table_id(module.module, name.encode())
        info = MapInfo(
            name,
            lib.bpf_table_max_entries_id(module.module, handle),
            lib.bpf_table_leaf_size_id(module.module, handle),
            lib.bpf_table_flags_id(module.module, handle),
        )
        found[name] = KernelMap(info, lib.bpf_table_fd_id(module.module, handle))
    return found


def update(held: KernelMap, name: str, key: Any, value: Any) -> None:
    """Sets an element of a map, or adds one to a queue. Raises OSError."""
    if _library().bpf_update_elem(held.fd, key, ctypes.byref(value), 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"map {name}: {os.strerror(number)}")


def load(module: Any, mechanism: Mechanism, name: str, of_module: str = "") -> int:
    """The descriptor of a program; of_module: where the function is that it is a trampoline of.
    Raises Refused."""
    lib, encoded = _library(), name.encode()
    code = lib.bpf_function_start(module.module, encoded)
    code_bytes = lib.bpf_function_size(module.module, encoded)
    licence = lib.bpf_module_license(module.module)
    ctypes.set_errno(0)
    with _silenced():
        if of_module:
            fd = _load_for_module(mechanism, name, of_module, licence, code, code_bytes)
        else:
            fd = lib.bcc_func_load(
                module.module,
                _PROGRAM_TYPE[mechanism],
                encoded,
                code,
                code_bytes,
                licence,
                lib.bpf_module_kern_version(module.module),
                0,
                None,
                0,
                None,
                -1,
            )
    if fd < 0:
        raise Refused(f"cannot load: {of_error(ctypes.get_errno())}")
    return int(fd)


def _load_for_module(
    mechanism: Mechanism, name: str, of_module: str, licence: bytes, code: int, code_bytes: int
) -> int:
    """BCC looks for the functions of trampolines in the kernel itself only."""
    function = btf.module_function(of_module, name.partition("__")[2])
    assert function  # it is a candidate because it was found
    return btf.load_trampoline(function, mechanism == "fexit", licence, code, code_bytes)


def attach_trampoline(program: int) -> int:
    """The descriptor that holds it, as of those below. Raises Refused, as they do."""
    return _attached(lambda lib: lib.bpf_attach_kfunc(program))


def attach_tracepoint(program: int, event: str) -> int:
    category, name = event.split(":")
    return _attached(lambda lib: lib.bpf_attach_tracepoint(program, category.encode(), name.encode()))


def attach_raw_tracepoint(program: int, name: str) -> int:
    return _attached(lambda lib: lib.bpf_attach_raw_tracepoint(program, name.encode()))


def _attached(attach: Callable[[Any], int]) -> int:
    ctypes.set_errno(0)
    with _silenced():
        link = attach(_library())
    if link < 0:
        raise Refused(f"cannot attach: {of_error(ctypes.get_errno())}")
    return link


def _library() -> Any:
    import bcc

    return bcc.libbcc.lib


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """libbpf and libbcc write their view of a refusal to descriptor 2; the report has it already."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(null)
        os.close(kept)
