"""Numbers of the kernel's own structures and enumerations, from the types that it describes itself (BTF),
read by libbpf, which BCC depends on; and trampolines of functions in modules, which BCC does not make."""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path("/sys/kernel/btf")  # of the types: a file `vmlinux`, as BTF or as an ELF file with it

# Kinds of types (include/uapi/linux/btf.h).
_KIND_STRUCT: Final = 4
_KIND_UNION: Final = 5
_KIND_ENUM: Final = 6
_KIND_TYPEDEF: Final = 8
_KIND_FUNCTION: Final = 12
_COUNT_MASK: Final = 0xFFFF  # of btf_type.info
_KIND_SHIFT: Final = 24  # of btf_type.info
_KIND_MASK: Final = 0x1F
_BIT_FIELD_FLAG: Final = 1 << 31  # of btf_type.info: offsets hold a width too
_OFFSET_MASK: Final = 0xFFFFFF

_NAME_BYTES: Final = 64

# Values of the kernel's enums bpf_prog_type and bpf_attach_type.
_TRACING: Final = 26
_FENTRY: Final = 24
_FEXIT: Final = 25
_INSTRUCTION_BYTES: Final = 8


class _Type(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Member(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _Enumerator(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


class _ObjectInfo(ctypes.Structure):
    """struct bpf_btf_info (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("types", ctypes.c_uint64),
        ("types_bytes", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_bytes", ctypes.c_uint32),
        ("of_kernel", ctypes.c_uint32),
    )


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf (bpf.h) as far as it is used here."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("attach_type", ctypes.c_int),
        ("unused", ctypes.c_uint32 * 4),
        ("function", ctypes.c_uint32),
        ("program_fd", ctypes.c_uint32),
        ("object_fd", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class ModuleFunction:
    """A function of a module as fentry and fexit name it. object_fd: the module's types; stays open."""

    object_fd: int
    number: int


def number_of(name: str, member: str, folder: Path = FOLDER) -> int | None:
    """Bytes from the beginning of the structure to its field, which may stand in a nameless part of it; or
    the value of an enumeration's member; or, for the member `arguments` of a function, how many it takes:
    where fexit finds its result; the same of a raw tracepoint. `field:shift` is how many bits of its byte
    stand before a field of a few bits. None where the folder's vmlinux or libbpf does not tell."""
    types = _types(folder)
    if types is None:
        return None
    if member == "arguments":
        function = types.find(name, _KIND_FUNCTION)
        if function > 0:
            return types.arguments_of(function)
        tracepoint = types.find(f"btf_trace_{name}", _KIND_TYPEDEF)
        return types.arguments_of_tracepoint(tracepoint) if tracepoint > 0 else None
    structure = types.find(name, _KIND_STRUCT)
    field, _, shift = member.partition(":")
    bits = types.bits_to(structure, field.encode()) if structure > 0 else None
    if bits is not None:
        return bits % 8 if shift else bits // 8
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
    try:
        lib = ctypes.CDLL("libbpf.so.1")
    except OSError:
        lib = ctypes.CDLL("libbpf.so.0")  # before libbpf 1.0, as Debian 11 has it
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

    def arguments_of_tracepoint(self, typedef: int) -> int:
        """The type is called after it, and is a pointer to a function with one more (bpf_probe.h)."""
        head, _ = self._read(typedef, _Member)
        return self.arguments_of(head.size) - 1

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


@functools.cache
def _kernel_types() -> int | None:
    """The kernel's types, which those of modules refer to; they stay loaded."""
    return int(_libbpf().btf__load_vmlinux_btf() or 0) or None


@functools.cache
def module_function(module: str, function: str) -> ModuleFunction | None:
    """None where the kernel does not tell of this module's types (before 5.11, or built so)."""
    try:
        lib = _libbpf()
    except (OSError, AttributeError):
        return None
    lib.btf__load_module_btf.restype = ctypes.c_void_p
    lib.btf__load_module_btf.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    kernel = _kernel_types()
    types = lib.btf__load_module_btf(module.encode(), kernel) if kernel else None
    number = lib.btf__find_by_name_kind(types, function.encode(), _KIND_FUNCTION) if types else 0
    object_fd = _module_object(module) if number > 0 else None
    return ModuleFunction(object_fd, number) if object_fd is not None else None


@functools.cache
def _module_object(module: str) -> int | None:
    """A descriptor of the module's types in the kernel, found among all such objects by its name."""
    lib = _libbpf()
    number = ctypes.c_uint32(0)
    while not lib.bpf_btf_get_next_id(number, ctypes.byref(number)):
        fd = lib.bpf_btf_get_fd_by_id(number)
        if fd < 0:
            continue  # it has gone meanwhile
        name = ctypes.create_string_buffer(_NAME_BYTES)
        info = _ObjectInfo(name=ctypes.addressof(name), name_bytes=_NAME_BYTES)
        length = ctypes.c_uint32(ctypes.sizeof(info))
        told = not lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length))
        if told and info.of_kernel and name.value == module.encode():
            return int(fd)
        os.close(fd)
    return None


def load_trampoline(
    function: ModuleFunction, at_exit: bool, licence: bytes, code: int, code_bytes: int
) -> int:
    """Loads the instructions at an address as a program for the function's entry or exit: a descriptor, or
    below 0 with errno (kernel 5.11, commit 290248a5b7d8)."""
    lib = _libbpf()
    lib.bpf_prog_load.argtypes = [
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    options = _LoadOptions(
        size=ctypes.sizeof(_LoadOptions),
        attach_type=_FEXIT if at_exit else _FENTRY,
        function=function.number,
        object_fd=function.object_fd,
    )
    count = code_bytes // _INSTRUCTION_BYTES
    return int(lib.bpf_prog_load(_TRACING, None, licence, code, count, ctypes.byref(options)))
