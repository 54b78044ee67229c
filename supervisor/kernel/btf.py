"""Numbers of the kernel's own structures and enumerations, from the types that it describes itself (BTF),
read by libbpf, which BCC depends on."""

import ctypes
import ctypes.util
import functools
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path("/sys/kernel/btf")  # of the types: a file `vmlinux`, as BTF or as an ELF file with it

# Kinds of types (include/uapi/linux/btf.h).
_KIND_STRUCT: Final = 4
_KIND_UNION: Final = 5
_KIND_ENUM: Final = 6
_KIND_FUNCTION: Final = 12
_COUNT_MASK: Final = 0xFFFF  # of btf_type.info
_KIND_SHIFT: Final = 24  # of btf_type.info
_KIND_MASK: Final = 0x1F
_BIT_FIELD_FLAG: Final = 1 << 31  # of btf_type.info: offsets hold a width too
_OFFSET_MASK: Final = 0xFFFFFF


class _Type(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Member(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _Enumerator(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


def number_of(name: str, member: str, folder: Path = FOLDER) -> int | None:
    """Bytes from the beginning of the structure to its field, which may stand in a nameless part of it; or
    the value of an enumeration's member; or, for the member `arguments` of a function, how many it takes:
    where fexit finds its result. None where the folder's vmlinux or libbpf does not tell."""
    types = _types(folder)
    if types is None:
        return None
    if member == "arguments":
        function = types.find(name, _KIND_FUNCTION)
        return types.arguments_of(function) if function > 0 else None
    structure = types.find(name, _KIND_STRUCT)
    bits = types.bits_to(structure, member.encode()) if structure > 0 else None
    if bits is not None:
        return bits // 8
    enumeration = types.find(name, _KIND_ENUM)
    return types.value_of(enumeration, member.encode()) if enumeration > 0 else None


@functools.cache
def _types(folder: Path) -> "_Types | None":
    """Of the folder's vmlinux. Reading them takes 10 ms, so it is done once, and they are kept: a loader asks
    for a dozen numbers and ends."""
    try:
        lib = _libbpf()
    except (OSError, AttributeError):
        return None
    kernel = lib.btf__parse(bytes(folder / "vmlinux"), None)
    if not kernel or lib.libbpf_get_error(kernel):
        return None
    return _Types(lib, kernel)


def _libbpf() -> Any:
    """Raises OSError without libbpf, AttributeError for one that is too old."""
    lib = ctypes.CDLL(ctypes.util.find_library("bpf") or "libbpf.so.1")
    lib.btf__parse.restype = lib.btf__type_by_id.restype = ctypes.c_void_p
    lib.btf__parse.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    lib.libbpf_get_error.argtypes = [ctypes.c_void_p]
    lib.libbpf_get_error.restype = ctypes.c_long
    lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
    lib.btf__type_by_id.argtypes = lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    return lib


class _Types:
    """The kernel's types, which refer to each other by number."""

    def __init__(self, lib: Any, kernel: int) -> None:
        self._lib = lib
        self._kernel = kernel

    def find(self, name: str, kind: int) -> int:
        """The type's number, negative when there is none."""
        return int(self._lib.btf__find_by_name_kind(self._kernel, name.encode(), kind))

    def bits_to(self, number: int, field: bytes) -> int | None:
        head, members = self._read(number, _Member)
        for member in members:
            bits = int(member.offset & _OFFSET_MASK if head.info & _BIT_FIELD_FLAG else member.offset)
            name = self._name(member.name_off)
            if name == field:
                return bits
            if not name and self._kind(member.type) in (_KIND_STRUCT, _KIND_UNION):
                within = self.bits_to(member.type, field)
                if within is not None:
                    return bits + within
        return None

    def value_of(self, number: int, name: bytes) -> int | None:
        _, enumerators = self._read(number, _Enumerator)
        return next((int(e.value) for e in enumerators if self._name(e.name_off) == name), None)

    def arguments_of(self, function: int) -> int:
        # A function's type has the number of its prototype in the place of a size.
        head, _ = self._read(function, _Member)
        prototype, _ = self._read(head.size, _Member)
        return int(prototype.info) & _COUNT_MASK

    def _read(self, number: int, part: Any) -> tuple[_Type, Any]:
        """A type's head, and the array that stands behind it."""
        address = self._lib.btf__type_by_id(self._kernel, number)
        head = _Type.from_address(address)
        return head, (part * (head.info & _COUNT_MASK)).from_address(address + ctypes.sizeof(_Type))

    def _kind(self, number: int) -> int:
        head = _Type.from_address(self._lib.btf__type_by_id(self._kernel, number))
        return int(head.info >> _KIND_SHIFT & _KIND_MASK)

    def _name(self, offset: int) -> bytes:
        return bytes(self._lib.btf__name_by_offset(self._kernel, offset))
