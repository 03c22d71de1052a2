"""A real SLURM cluster of several nodes on this machine, whose nodes can lack folders or die.

Each node is a slurmd in its own host name and mount namespaces, and in its own process namespace if it can be killed as
a whole. It needs what `tests.support.slurm_cluster` needs, and the right to create namespaces.

    python -m tests.support.virtual_nodes FOLDER     start a cluster for experiments, until Ctrl-C or SIGTERM
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.slurm_cluster import Cluster, free_ports, missing, partitions, wait_for

NAMESPACES = ("unshare", "--uts", "--mount", "--propagation", "private")
ENDS = {signal.SIGINT, signal.SIGTERM}
PROCESSES = ("--pid", "--fork", "--kill-child=KILL", "--mount-proc")


def missing_for_nodes() -> list[str]:
    """Return the programs and rights for several nodes that this machine lacks."""
    if lacking := missing():
        return lacking
    allowed = subprocess.run([*NAMESPACES, *PROCESSES, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return ["the right to make namespaces (unshare)"] * bool(allowed.returncode)


class Nodes(Cluster):
    """A SLURM cluster of several nodes, to be started by `start`.

    Args:
        root: folder of all files.
        names: names of the nodes.
        cpus: number of cores of each node.
        options: see `Cluster`.
    """

    def __init__(self, root: Path, names: Sequence[str] = ("n1", "n2", "n3"), cpus: int = 2, **options: int):
        super().__init__(root, cpus=cpus, **options)
        self.names = list(names)
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def node_lines(self) -> str:
        lines = [f"SlurmdSpoolDir={self.root}/spool/%n", f"SlurmdPidFile={self.root}/slurmd-%n.pid",
                 f"SlurmdLogFile={self.root}/log/slurmd-%n.log", "SlurmdTimeout=10", "SlurmctldTimeout=30"]
        lines += [f"NodeName={name} NodeHostname={self.host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
                  "RealMemory=8000 State=UNKNOWN" for name, port in self.ports.items()]
        return "\n".join([*lines, partitions(",".join(self.names))])

    def start_nodes(self) -> None:
        for name in self.names:
            self.up(name)

    def up(self, name: str, hidden: Path | None = None, read_only: Path | None = None, mortal: bool = True) -> None:
        """Start a node and wait until it is idle.

        Args:
            hidden: folder that is empty on the node.
            read_only: folder that is not writable on the node.
            mortal: whether `kill` also ends the node's jobs; otherwise it ends only slurmd, as in a crash.
        """
        (self.root / "spool" / name).mkdir(parents=True, exist_ok=True)
        hosts = self.root / f"hosts-{name}"
        hosts.write_text(f"127.0.0.1 localhost {name} {self.host}\n")
        steps = [f"hostname {name}", f"mount --bind {hosts} /etc/hosts"]
        if hidden is not None:
            steps.append(f"mount -t tmpfs none {hidden}")
        if read_only is not None:
            steps.append(f"mount --bind {read_only} {read_only} && mount -o remount,bind,ro {read_only}")
        steps.append(f"exec slurmd -D -N {name}")
        with (self.root / "log" / f"{name}.out").open("ab") as log:
            self._nodes[name] = subprocess.Popen(
                [*NAMESPACES, *(PROCESSES if mortal else ()), "sh", "-c", " && ".join(steps)],
                env=os.environ | self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True)
        self._started.append(self._nodes[name])
        wait_for(lambda: self.state_of(name).startswith(("idle", "mixed")), 120, f"node {name}'s start")

    def kill(self, name: str) -> None:
        """Kill a node."""
        self._nodes[name].kill()
        self._nodes[name].wait()

    def again(self, name: str, **lack: Path) -> None:
        """Start a killed node again; `lack` as in `up`."""
        self.kill(name)
        self.up(name, **lack)  # type: ignore[arg-type]
        self.works("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def stop(self) -> None:
        self.end_jobs()
        for name in self._nodes:
            self.kill(name)  # the first process of a process namespace ignores SIGTERM
        super().stop()

    def state_of(self, name: str) -> str:
        """Return SLURM's state of a node: idle, mixed, allocated, down, ..."""
        return self.ask("sinfo", "-h", "-N", "-n", name, "-o", "%T").split("\n")[0] if self.works("sinfo") else ""


def main() -> None:
    nodes = Nodes(Path(sys.argv[1]).absolute(), max_array=1001)
    try:
        nodes.start()
        print("\n".join(f"export {name}={value}" for name, value in nodes.environment.items()), flush=True)
        # Blocked only after the start, since daemons inherit blocked signals and must receive these.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        signal.sigwait(ENDS)
    finally:
        nodes.stop()


if __name__ == "__main__":
    main()
