"""Offsets of fields in the kernel's own structures, from the types that it describes itself (BTF), read by
libbpf, which BCC depends on."""

import ctypes
import ctypes.util
from typing import Final

# Kinds of types (include/uapi/linux/btf.h).
_KIND_STRUCT: Final = 4
_KIND_FUNCTION: Final = 12
_COUNT_MASK: Final = 0xFFFF  # of btf_type.info
_BIT_FIELD_FLAG: Final = 1 << 31  # of btf_type.info: offsets hold a width too
_OFFSET_MASK: Final = 0xFFFFFF


class _Type(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Member(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


def offset_of(structure: str, field: str) -> int | None:
    """Bytes from the beginning of the structure, None where the kernel or libbpf does not tell. For the field
    `arguments` of a function, how many it takes: where fexit finds its result."""
    name = ctypes.util.find_library("bpf") or "libbpf.so.1"
    try:
        lib = ctypes.CDLL(name)
        load, find = lib.btf__load_vmlinux_btf, lib.btf__find_by_name_kind
        by_id, text = lib.btf__type_by_id, lib.btf__name_by_offset
    except (OSError, AttributeError):
        return None
    load.restype = by_id.restype = ctypes.c_void_p
    find.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
    by_id.argtypes = text.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    text.restype = ctypes.c_char_p
    lib.btf__free.argtypes = [ctypes.c_void_p]
    kernel = load()
    if not kernel:
        return None
    try:
        if field == "arguments":
            number = find(kernel, structure.encode(), _KIND_FUNCTION)
            # A function's type has the number of its prototype in the place of a size.
            prototype = by_id(kernel, _Type.from_address(by_id(kernel, number)).size) if number > 0 else None
            return _Type.from_address(prototype).info & _COUNT_MASK if prototype else None
        number = find(kernel, structure.encode(), _KIND_STRUCT)
        address = by_id(kernel, number) if number > 0 else None
        if not address:
            return None
        head = _Type.from_address(address)
        members = (_Member * (head.info & _COUNT_MASK)).from_address(address + ctypes.sizeof(_Type))
        for member in members:
            if text(kernel, member.name_off) == field.encode():
                bits = member.offset & _OFFSET_MASK if head.info & _BIT_FIELD_FLAG else member.offset
                return int(bits) // 8
        return None
    finally:
        lib.btf__free(kernel)
