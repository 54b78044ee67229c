"""The socket on which a served stream is offered: RUNTIME_DIR/stream.sock, root:netdata 0660.

The supervisor makes it and listens; the aggregator, which has inherited it, accepts. So an aggregator that is
made anew goes on with it, and whoever connects in between waits. What a reader is told by the kernel
(SO_PEERCRED) is who has called listen(2): root.
"""

import grp
import logging
import os
import socket
from pathlib import Path
from typing import Final

# Who may wait to be accepted.
_BACKLOG: Final = 32

log = logging.getLogger("ebpf-supervisor")


def listen(path: Path, group: str) -> socket.socket:
    """The listening socket, for root and the group alone. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    # Nobody may connect between bind and chown.
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    try:
        os.chown(path, 0, grp.getgrnam(group).gr_gid)
        path.chmod(0o660)
    except KeyError:
        log.warning(
            "%s: only root may read the stream: there is no group %s; `stream group` names one", path, group
        )
    listener.listen(_BACKLOG)
    return listener
