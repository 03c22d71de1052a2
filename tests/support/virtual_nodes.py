"""A real SLURM of several nodes on this machine, each of which can lack something, or die.

Every node is a slurmd in host name and mount namespaces of its own; one that may die as a whole has its own processes,
too. It needs what `tests.support.slurm_cluster` needs, and the right to make namespaces.

    python -m tests.support.virtual_nodes FOLDER     start one to try things on, until Ctrl-C or SIGTERM
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
    """What this machine lacks for several nodes."""
    if lacking := missing():
        return lacking
    allowed = subprocess.run([*NAMESPACES, *PROCESSES, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return ["the right to make namespaces (unshare)"] * bool(allowed.returncode)


class Nodes(Cluster):
    """The cluster, once started.

    Args:
        root: a folder for everything.
        names: the nodes.
        cpus: cores of each.
        options: as of `Cluster`.
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
        """Start a node, and wait until it is idle.

        Args:
            hidden: a folder that is empty there.
            read_only: a folder that cannot be written there.
            mortal: whether `kill` ends its jobs with it; otherwise only its slurmd, as when that crashes.
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
        """Start a node anew, with whatever it is to lack."""
        self.kill(name)
        self.up(name, **lack)  # type: ignore[arg-type]
        self.works("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def stop(self) -> None:
        self.end_jobs()
        for name in self._nodes:
            self.kill(name)  # the first process of a node's own answers no SIGTERM
        super().stop()

    def state_of(self, name: str) -> str:
        """What SLURM says of a node: idle, mixed, allocated, down, ..."""
        return self.ask("sinfo", "-h", "-N", "-n", name, "-o", "%T").split("\n")[0] if self.works("sinfo") else ""


def main() -> None:
    nodes = Nodes(Path(sys.argv[1]).absolute(), max_array=1001)
    try:
        nodes.start()
        print("\n".join(f"export {name}={value}" for name, value in nodes.environment.items()), flush=True)
        # Only now: the daemons are to hear them.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        signal.sigwait(ENDS)
    finally:
        nodes.stop()


if __name__ == "__main__":
    main()
