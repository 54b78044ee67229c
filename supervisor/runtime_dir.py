"""The runtime directory: who may enter, what stands in it, and what a killed run has left there.

RUNTIME_DIR/             root, 0755
    lock                 held (flock) by the supervisor, with its pid
    control.sock         root:ebpf-supervisor 0660
    stream.sock          root:netdata 0660, where a stream is served
    samples/             the workers' account, 0700
        samples.sock
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from supervisor.errors import AlreadyRunning, SupervisorError
from supervisor.spawn import Account

DEFAULT: Final = Path("/run/ebpf-supervisor")
CONTROL: Final = "control.sock"
STREAM: Final = "stream.sock"
SAMPLES: Final = "samples"
# Workers and the aggregator reach it from their working directory, `samples/`: the way there may be closed
# to the account that they have become.
SAMPLES_SOCKET: Final = "samples.sock"
LOCK: Final = "lock"
# A socket's path has 107 bytes (unix(7)).
_SOCKET_PATH_BYTES: Final = 107


class RuntimeDir:
    """Held while the supervisor lives."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.control = self.path / CONTROL
        self.stream = self.path / STREAM
        self.samples = self.path / SAMPLES / SAMPLES_SOCKET
        self._places = {name: str(self.path / name) for name in (LOCK, CONTROL, SAMPLES)}
        self._places[SAMPLES_SOCKET] = str(self.samples)
        self._lock_fd = -1
        self._made = False
        if len(os.fsencode(self.control)) > _SOCKET_PATH_BYTES:
            raise SupervisorError(
                f"{self.path}: too long for the path of a socket; choose a shorter --runtime-dir"
            )

    def take(self, account: Account) -> list[str]:
        """Makes and locks it, and removes what a killed run has left; says what that was.
        Raises AlreadyRunning, and SupervisorError when it cannot be made."""
        try:
            self._made = not self.path.exists()
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._made:
                self.path.chmod(0o755)  # whatever the caller's umask
            elif self._was_used():
                self._made = True
            elif os.path.lexists(self.samples.parent):
                raise SupervisorError(
                    f"{self.samples.parent}: not a supervisor's; choose another --runtime-dir, or remove it"
                )
            self._lock()
            removed = self._clear()
            self._make_samples(account)
        except OSError as error:
            raise SupervisorError(
                f"{self.path}: the runtime directory cannot be used: {error.strerror}; choose another one "
                "with --runtime-dir"
            ) from error
        return removed

    def _make_samples(self, account: Account) -> None:
        samples = self.samples.parent
        samples.mkdir(mode=0o700)
        os.chown(samples, account.uid, account.gid, follow_symlinks=False)
        self._samples_made = samples.lstat()

    def missing(self) -> frozenset[str]:
        """What somebody has removed of it, or put another thing in the place of: LOCK, CONTROL, SAMPLES,
        SAMPLES_SOCKET."""
        held = {LOCK: os.fstat(self._lock_fd), SAMPLES: self._samples_made}
        gone = {name for name, made in held.items() if not _is(self._places[name], made)}
        sockets = (CONTROL, SAMPLES_SOCKET)
        return frozenset(gone | {name for name in sockets if not os.path.lexists(self._places[name])})

    def restore(self, gone: frozenset[str], account: Account) -> None:
        """Makes anew what is gone of lock and folder. Raises OSError, and AlreadyRunning when another
        supervisor has come to the empty place first."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        if LOCK in gone:
            os.close(self._lock_fd)
            self._lock()
        if SAMPLES in gone:
            if os.path.lexists(self.samples.parent):
                self._clear()
            self._make_samples(account)

    def _was_used(self) -> bool:
        """Whether a run was killed here, or still runs: only then is what stands here ours to remove."""
        return os.path.lexists(self.path / LOCK)

    def _lock(self) -> None:
        """Takes the lock of the file that stands there now: one that was opened and then removed by a run
        that was just ending would lock nobody out."""
        path = self.path / LOCK
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            self._take_lock(fd)
            if os.path.lexists(path) and os.path.samestat(os.fstat(fd), os.lstat(path)):
                break
            os.close(fd)
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def _take_lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise AlreadyRunning(
                f"{self.path}: a supervisor runs there already (pid {owner or 'unknown'}); "
                "stop it with `ebpfctl shutdown`, or choose another --runtime-dir"
            ) from error

    def _clear(self) -> list[str]:
        removed = []
        for path in (self.control, self.stream, self.samples):
            if os.path.lexists(path):
                path.unlink()
                removed.append(f"socket {path}")
        if self.samples.parent.is_dir():
            import shutil  # half a megabyte in all our processes, for what a killed run has left

            shutil.rmtree(self.samples.parent)  # others of the account may have put something there
        return removed

    def give_back(self) -> None:
        """Removes all of it; the directory too if this run made it."""
        self._clear()
        (self.path / LOCK).unlink(missing_ok=True)
        if self._made:
            try:
                self.path.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
        os.close(self._lock_fd)

    def clean(self) -> list[str]:
        """Takes it only to give it back."""
        if not self._was_used():
            return []
        self._made = True
        self._lock()
        removed = self._clear()
        self.give_back()
        return [*removed, f"lock {self.path / LOCK}"]


def _is(path: str, made: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), made)
    except OSError:
        return False


def clean(path: Path) -> list[str]:
    """What a killed run has left in `path` is removed; says what. Raises AlreadyRunning."""
    if not path.is_dir():
        return []
    return RuntimeDir(path).clean()
