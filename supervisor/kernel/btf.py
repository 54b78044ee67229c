"""What the kernel tells of its own types (BTF), read by libbpf, which BCC depends on: offsets of fields in
its structures, numbers of parameters of its functions."""

import contextlib
import ctypes
import ctypes.util
from collections.abc import Iterator
from typing import Any, Final

_KIND_STRUCT: Final = 4  # BTF_KIND_STRUCT (include/uapi/linux/btf.h)
_KIND_FUNC: Final = 12  # BTF_KIND_FUNC; its `size` is the number of its prototype, a type of its own
_COUNT_MASK: Final = 0xFFFF  # of btf_type.info
_BIT_FIELD_FLAG: Final = 1 << 31  # of btf_type.info: offsets hold a width too
_OFFSET_MASK: Final = 0xFFFFFF


class _Type(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Member(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _Types:
    """The kernel's types while they are held in memory."""

    def __init__(self, lib: Any, kernel: int) -> None:
        self._lib = lib
        self._kernel = kernel

    def find(self, name: str, kind: int) -> int:
        """Address of a type by its name, 0 where there is none."""
        number = self._lib.btf__find_by_name_kind(self._kernel, name.encode(), kind)
        return self.at(number) if number > 0 else 0

    def at(self, number: int) -> int:
        return self._lib.btf__type_by_id(self._kernel, number) or 0

    def text(self, offset: int) -> str:
        found: bytes = self._lib.btf__name_by_offset(self._kernel, offset)
        return found.decode()


def offset_of(structure: str, field: str) -> int | None:
    """Bytes from the beginning of the structure, None where the kernel or libbpf does not tell."""
    with _kernel_types() as types:
        address = types.find(structure, _KIND_STRUCT) if types else 0
        if not types or not address:
            return None
        head = _Type.from_address(address)
        members = (_Member * (head.info & _COUNT_MASK)).from_address(address + ctypes.sizeof(_Type))
        for member in members:
            if types.text(member.name_off) == field:
                bits = member.offset & _OFFSET_MASK if head.info & _BIT_FIELD_FLAG else member.offset
                return int(bits) // 8
        return None


def parameters_of(function: str) -> int | None:
    """How many parameters the function takes, None where the kernel or libbpf does not tell."""
    with _kernel_types() as types:
        address = types.find(function, _KIND_FUNC) if types else 0
        if not types or not address:
            return None
        prototype = _Type.from_address(types.at(_Type.from_address(address).size))
        return int(prototype.info & _COUNT_MASK)


@contextlib.contextmanager
def _kernel_types() -> Iterator[_Types | None]:
    name = ctypes.util.find_library("bpf") or "libbpf.so.1"
    try:
        lib = ctypes.CDLL(name)
        load, find = lib.btf__load_vmlinux_btf, lib.btf__find_by_name_kind
        by_id, text = lib.btf__type_by_id, lib.btf__name_by_offset
    except (OSError, AttributeError):
        yield None
        return
    load.restype = by_id.restype = ctypes.c_void_p
    find.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
    by_id.argtypes = text.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    text.restype = ctypes.c_char_p
    lib.btf__free.argtypes = [ctypes.c_void_p]
    kernel = load()
    if not kernel:
        yield None
        return
    try:
        yield _Types(lib, kernel)
    finally:
        lib.btf__free(kernel)
