"""Forty processes, differently named and nested, are in the group in which the real apps.plugin has them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.ctl import ask
from supervisor.top.reading import Memory
from tests.agent.apps_plugin import PROGRAM, AppsPlugin
from tests.harness import Run, descendants, supervisor, wait_for

pytestmark = [
    pytest.mark.agent,
    pytest.mark.kernel,
    pytest.mark.skipif(
        os.geteuid() != 0 or not PROGRAM.exists(), reason="needs root and Debian's netdata-core"
    ),
]

GROUPS = """\
# every form of a word, quotes, comments, flags, several lines for a group
ktweb: ktnginx ktapache ktc* # ktcron
ktdb: ktpostgres *ktsql
ktdb: -ktmaria
ktkafka: *kt.kafka.Kafka* '*kt two words*'
ktcron: kt-cron +kt-atd
-kthid: kt-hidden
"kt quoted": "kt: server" 'kt: c*'
ktmix ktlast:ktcolon
ktdup: ktown ktnginx
"""

# Name, arguments; what is further in is its child.
TREE = """\
ktroot
  ktnginx
    ktworker
      ktcgi
        kthelper
    ktpostgres
      ktchild
      ktnginx
    ktunknown --x=kt.kafka.Kafka
      ktjvm
  ktapache
  ktcaddy
    ktc
  xktc
  ktmysql
    ktsqlx
  my-ktsql
    ktdump
      ktgzip
  ktmaria
  ktjava kt.kafka.Kafka server.properties
    ktjavac
  ktjava kt.kafka.kafka
  ktjava kt two words
  ktnginx kt.kafka.Kafka
  kt-cron
    ktsh
      ktjob
        ktnginx
          ktsub
      kt-atd
  kt-hidden
    ktseen
  kt: server
    kt: c1
  kt: client
  ktshell
    ktshell2
      ktapache
        ktls
      ktless
  ktcolon
  ktlast
    ktown
  KTNGINX
"""


@dataclass(frozen=True)
class Node:
    """One process of the tree: its line."""

    number: int
    depth: int
    name: str
    arguments: tuple[str, ...]


def nodes() -> list[Node]:
    found = []
    for number, line in enumerate(TREE.splitlines()):
        text = line.strip()
        name = text if text.startswith("kt: ") else text.split()[0]
        found.append(Node(number, (len(line) - len(text)) // 2, name, tuple(text.removeprefix(name).split())))
    return found


NODES = nodes()


class Forest:
    """The processes, each a shell under another name that waits for the end of its own pipe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for node in NODES:
            self._write(node)
        self._root = subprocess.Popen(self._command(NODES[0]), start_new_session=True)
        self.pids: dict[int, Node] = {}

    def _command(self, node: Node) -> list[str]:
        shell = self._folder / "bin" / node.name
        shell.parent.mkdir(exist_ok=True)
        if not shell.is_symlink():
            shell.symlink_to("/bin/dash")
        return [str(shell), str(self._folder / f"{node.number}.sh"), *node.arguments]

    def _write(self, node: Node) -> None:
        """Its script: starts the children, then sleeps without a process of its own for it."""
        below = NODES[node.number + 1 :]
        end = next((n.number for n in below if n.depth <= node.depth), len(NODES))
        children = [n for n in NODES[node.number + 1 : end] if n.depth == node.depth + 1]
        pipe = self._folder / f"{node.number}.pipe"
        os.mkfifo(pipe)
        starts = [" ".join(f"'{word}'" for word in self._command(child)) + " &" for child in children]
        (self._folder / f"{node.number}.sh").write_text("\n".join([*starts, f"read x < {pipe}", ""]))

    def find(self) -> Mapping[int, Node]:
        """Every process by its id, once all of them have their names."""

        def there() -> bool:
            pids = [self._root.pid, *descendants(self._root.pid)]
            self.pids = {pid: node for pid in pids if (node := _node_of(pid))}
            return len(self.pids) == len(NODES)

        wait_for(f"{len(NODES)} processes", there, 30)
        return self.pids

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._root.pid, signal.SIGKILL)
        self._root.wait()


def _node_of(pid: int) -> Node | None:
    """By the number of the script in its command line; its name must be there too."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        comm = Path(f"/proc/{pid}/comm").read_text().removesuffix("\n")
    except OSError:
        return None
    node = next((n for n in NODES if len(words) > 1 and words[1].endswith(b"/%d.sh" % n.number)), None)
    return node if node and comm == node.name else None


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with supervisor("--only", "process", groups=GROUPS) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("conf")
    (made / "apps_groups.conf").write_text(GROUPS)
    return made


@contextlib.contextmanager
def grown(folder: Path) -> Iterator[Forest]:
    forest = Forest(folder)
    try:
        forest.find()
        yield forest
    finally:
        forest.end()


def ours(run: Run) -> dict[int, str]:
    """By process id, as `ebpfctl top --by pids` has them."""
    descriptors: list[int] = []
    memory = Memory(next(ask(run.directory, {"command": "top"}, descriptors)), descriptors)
    labels = memory.read("pids").labels.values()
    memory.close()
    return {int(label.facts["pid"]): str(label.facts["app"]) for label in labels}


def differences(run: Run, plugin: AppsPlugin, pids: Mapping[int, Node]) -> dict[str, tuple[str, str]]:
    """Ours and its group of each process that they do not agree about, by the line of the tree."""
    here, there = ours(run), plugin.groups()
    return {
        f"{node.number}: {node.name}": (here.get(pid, "absent"), there.get(pid, "absent"))
        for pid, node in pids.items()
        if here.get(pid) != there.get(pid)
    }


def settled(run: Run, plugin: AppsPlugin, pids: Mapping[int, Node]) -> dict[str, tuple[str, str]]:
    """What is left of the differences once both have looked at all processes again."""
    scans = plugin.scans
    wait_for("two scans of apps.plugin", lambda: plugin.scans >= scans + 2, 30)
    run.wait_frames(2)
    return differences(run, plugin, pids)


def test_forty_processes_are_in_the_groups_in_which_apps_plugin_has_them(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    assert len(NODES) >= 40
    with AppsPlugin(folder) as plugin:
        wait_for("its first scan", lambda: plugin.scans > 0, 30)
        with grown(tmp_path) as forest:
            assert settled(run, plugin, forest.pids) == {}
            assert len(set(map(ours(run).get, forest.pids))) == 9  # each group, and other
            # Parents end: what they leave behind stays where it was.
            orphans = {
                pid: node for pid, node in forest.pids.items() if node.name not in ("ktworker", "ktsh")
            }
            for pid in forest.pids.keys() - orphans.keys():
                os.kill(pid, signal.SIGKILL)
            assert settled(run, plugin, orphans) == {}


def test_what_was_there_before_apps_plugin_differs_only_where_no_word_matches_it_or_what_it_comes_from(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    """In its first scan apps.plugin counts a process without a group in that of a child, and other children
    with it; a process that it sees later it does not. Here it is never so: a new start changes no group."""
    with grown(tmp_path) as forest, AppsPlugin(folder) as plugin:
        wait_for("its first scan", lambda: plugin.scans > 0, 30)
        apart = settled(run, plugin, forest.pids)
        assert f"{NODES[0].number}: {NODES[0].name}" in apart
        assert {here for here, _ in apart.values()} == {"other"}
