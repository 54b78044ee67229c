"""cachestat: pages of the page cache that were read, and those that had to come from the disk, by process."""

import errno
import os
import sys
from typing import TYPE_CHECKING

from supervisor.kernel.plans import Hook, function_plan, raw_tracepoint_plan
from workers.declaration import Column, Derived, Program, Ratio

if TYPE_CHECKING:
    from supervisor.kernel.arrays import U64Array

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _read_two_pages() -> None:
    """Of the interpreter, which are in the page cache."""
    with open(sys.executable, "rb", buffering=0) as file:
        for page in (0, 2):
            os.pread(file.fileno(), 1, page * _PAGE_BYTES)


def _read_a_page_anew() -> None:
    """Of this file, which nobody needs once it is compiled: out of the cache, and in again. Raises OSError
    where it does not go out, or the file system cannot tell (preadv2(2), RWF_NOWAIT)."""
    with open(__file__, "rb", buffering=0) as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            os.pread(file.fileno(), 1, 0)
        else:
            raise OSError(errno.EBUSY, "stays in the page cache", __file__)


# folio_mark_accessed and filemap_add_folio came with 5.16; mark_page_accessed and add_to_page_cache_lru have
# since been wrappers that hardly anybody calls. Of the kernel's tracepoints only mm_filemap_get_pages (6.11)
# tells of accesses: of those by read(2) and the like, not of tmpfs, of metadata, of what is mapped.
_ACCESS = (
    function_plan("fentry", "folio_mark_accessed", "on_access", "args[0]"),
    function_plan("fentry", "mark_page_accessed", "on_access", "args[0]"),
    function_plan("kprobe", "folio_mark_accessed", "on_access", "PT_REGS_PARM1(args)"),
    function_plan("kprobe", "mark_page_accessed", "on_access", "PT_REGS_PARM1(args)"),
    raw_tracepoint_plan(
        "on_get_pages", "args[0], args[1], args[2]", "filemap:mm_filemap_get_pages", field="inode.i_size"
    ),
)
# Without accesses nothing tells a page that was added to be read, and is written to later, from one that was
# added to be written: tracepoints serve where there is that of accesses (6.11), and not for half of it.
_OF_ACCESSES = "mm_filemap_get_pages()"

# An addition that fails, because another task was faster, counts with a kprobe at the entry only.
_ADD = (
    function_plan("fexit", "filemap_add_folio", "on_add", "args[1], (int)args[4]"),
    function_plan("fexit", "add_to_page_cache_lru", "on_add", "args[0], (int)args[4]"),
    function_plan("kprobe", "filemap_add_folio", "on_add", "PT_REGS_PARM2(args), 0"),
    function_plan("kprobe", "add_to_page_cache_lru", "on_add", "PT_REGS_PARM1(args), 0"),
    raw_tracepoint_plan("on_add", "args[0], 0", "filemap:mm_filemap_add_to_page_cache", field=_OF_ACCESSES),
)
_DIRTY = (
    function_plan("fentry", "__folio_mark_dirty", "on_dirty", "args[0]"),  # 5.16
    function_plan("fentry", "account_page_dirtied", "on_dirty", "args[0]"),  # before 5.15
    function_plan("fentry", "__set_page_dirty", "on_dirty", "args[0]"),  # 5.15
    function_plan("kprobe", "__folio_mark_dirty", "on_dirty", "PT_REGS_PARM1(args)"),
    function_plan("kprobe", "account_page_dirtied", "on_dirty", "PT_REGS_PARM1(args)"),
    function_plan("kprobe", "__set_page_dirty", "on_dirty", "PT_REGS_PARM1(args)"),
    raw_tracepoint_plan("on_dirty", "args[0]", "writeback:writeback_dirty_folio", field=_OF_ACCESSES),
)
_BUFFER_DIRTY = (
    function_plan("fentry", "mark_buffer_dirty", "on_buffer_dirty"),
    function_plan("kprobe", "mark_buffer_dirty", "on_buffer_dirty"),
    raw_tracepoint_plan("on_buffer_dirty", "", "block:block_dirty_buffer"),
)


def _hits_and_misses(sample: "U64Array") -> "U64Array":
    """A page that was added and not at once written to is a miss; an access beyond the misses is a hit.

    Netdata's rule takes the dirty buffers off the accesses, since writes once marked pages as accessed; they
    have not since 4.7 (kernel commit bbddabe2e436). It takes all pages that were made dirty off those that
    were added, so that one process that writes to cached files hides what another has to wait for; here
    those alone are taken off that were added to be written to. And it has no more misses than accesses: but
    what is mapped, or read ahead, comes from the disk too, without an access.
    """
    import numpy as np

    accessed, _, added, written = sample.T
    misses = added - np.minimum(added, written)
    hits = accessed - np.minimum(accessed, misses)
    return np.stack([hits, misses], axis=1)


PROGRAM = Program(
    name="cachestat",
    source="cachestat.bpf.c",
    hooks=(
        Hook("access", _ACCESS, _ACCESS, exercise=_read_two_pages, column=0),
        Hook("buffer dirty", _BUFFER_DIRTY, _BUFFER_DIRTY),
        Hook("add", _ADD, _ADD, exercise=_read_a_page_anew, column=2),
        Hook("dirty", _DIRTY, _DIRTY),
    ),
    columns=(
        Column("accessed", "access"),
        Column("buffer_dirtied", "buffer dirty"),
        Column("added", "add"),
        Column("dirtied", "dirty"),
    ),
    ratios={"ratio": Ratio(part=("hits",), whole=("hits", "misses"), empty=100)},
    row_words=4,
    derived=Derived(
        {"hits": ("accessed", "added", "dirtied"), "misses": ("added", "dirtied")}, _hits_and_misses
    ),
    numbers=(
        "folio._nr_pages",
        "folio._folio_nr_pages",
        "folio.page",
        "page.compound_nr",
        "pageflags.PG_head",
        "address_space.host",
        "inode.i_size",
    ),
)
