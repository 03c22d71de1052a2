"""A real SLURM cluster with accounting on this machine: one node, loopback only, all files in one folder.

It needs root and Debian's slurmctld, slurmd, slurmdbd, slurm-client, munge and mariadb-server, but no systemd. Its
processes are stopped by pid.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PACKAGES = "slurmctld slurmd slurmdbd slurm-client munge mariadb-server"
DAEMONS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd")
TOOLS = ("sbatch", "squeue", "sacct", "sacctmgr", "scancel", "scontrol", "munge")


def missing() -> list[str]:
    """Return the programs and rights for SLURM that this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in (*DAEMONS, *TOOLS) if shutil.which(name, path=path) is None] + (
        [] if os.geteuid() == 0 else ["root's rights"])


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until the condition holds.

    Raises:
        TimeoutError: it does not hold in time.
    """
    patience = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > patience:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.1)


def partitions(nodes: str) -> str:
    """Return the lines of slurm.conf for two partitions of all nodes, of which the higher one preempts the other."""
    preempted = "PriorityTier=1 GraceTime=15 PreemptMode=REQUEUE"
    return f"""PartitionName=day Nodes={nodes} Default=YES MaxTime=INFINITE {preempted}
PartitionName=urgent Nodes={nodes} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF"""


class Cluster:
    """A SLURM cluster of one node, to be started by `start`.

    Args:
        root: folder of all files; its path must be short, since it contains sockets.
        cpus: number of cores that the node claims to have.
        gpus: number of GPUs that the node claims to have.
        max_array: SLURM's MaxArraySize.
    """

    def __init__(self, root: Path, cpus: int = 4, gpus: int = 2, max_array: int = 5):
        self.root, self.cpus, self.gpus, self.max_array = root, cpus, gpus, max_array
        self.host = socket.gethostname().split(".")[0]
        self.controller_port, self.node_port, self.database_port, self.sql_port = free_ports(4)
        self.max_jobs = 10000
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which SLURM's commands use this cluster."""
        return {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}

    def ask(self, *command: str) -> str:
        """Run a command and return its output.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=True,
                              timeout=120).stdout

    def works(self, *command: str) -> bool:
        """Run a command and return whether it succeeded."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.ask(*command)
            return True
        return False

    def _daemon(self, *command: str) -> None:
        with (self.root / "log" / f"{command[0]}.out").open("ab") as log:
            self._started.append(subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log,
                                                  stdin=subprocess.DEVNULL, start_new_session=True))

    def start(self) -> None:
        """Start all daemons and wait until the node is idle."""
        for name in ("state", "spool", "log", "sql", "dev"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        socket_file = self.root / "munge.sock"
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket_file}",
                     f"--pid-file={self.root / 'munged.pid'}", f"--log-file={self.root / 'log' / 'munged.log'}",
                     f"--seed-file={self.root / 'munge.seed'}", "--num-threads=2")
        sql_socket = self.root / "sql.sock"
        self.ask("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.root / 'sql'}",
                 "--auth-root-authentication-method=normal", "--skip-test-db")
        self._daemon("mariadbd", "--no-defaults", "--user=root", f"--datadir={self.root / 'sql'}",
                     f"--socket={sql_socket}", f"--pid-file={self.root / 'mariadbd.pid'}", "--bind-address=127.0.0.1",
                     f"--port={self.sql_port}", "--innodb-buffer-pool-size=64M",
                     "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900")
        wait_for(lambda: self.works("munge", "-n", "-S", str(socket_file)), 60, "munge's start")
        sql = ("mariadb", "--no-defaults", "-uroot", "-S", str(sql_socket), "-e")
        wait_for(lambda: self.works(*sql, "select 1"), 120, "the database's start")
        self.ask(*sql, "create database accounts; " + "".join(
            f"create user slurm@{host} identified by 'slurm'; grant all on accounts.* to slurm@{host}; "
            for host in ("127.0.0.1", "localhost")))
        self.configure()
        self._daemon("slurmdbd", "-D")
        wait_for(lambda: self.works("sacctmgr", "-n", "list", "cluster"), 120, "slurmdbd's start")
        self.works("sacctmgr", "-i", "add", "cluster", "test")
        self._daemon("slurmctld", "-D")
        self.start_nodes()

    def start_nodes(self) -> None:
        """Start the nodes and wait until they are idle."""
        self._daemon("slurmd", "-D")
        wait_for(lambda: self.works("sinfo") and "idle" in self.ask("sinfo", "-h", "-o", "%T"), 120, "an idle node")

    def restart(self, name: str) -> None:
        """Start a daemon again after `end`."""
        self._daemon(name, "-D")

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to the newest daemon of this name and wait for its end."""
        process = [started for started in self._started if started.args[0] == name][-1]  # type: ignore[index]
        process.send_signal(number)
        process.wait(60)

    def node_lines(self) -> str:
        """Return the lines of slurm.conf for nodes and partitions."""
        gres = f"Gres=gpu:{self.gpus}" if self.gpus else ""
        return f"""SlurmdPort={self.node_port}
SlurmdSpoolDir={self.root}/spool
SlurmdPidFile={self.root}/slurmd.pid
SlurmdLogFile={self.root}/log/slurmd.log
NodeName={self.host} NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory=8000 {gres} State=UNKNOWN
{partitions(self.host)}"""

    def configure(self, user_signal: bool = True) -> None:
        """Write the configuration files.

        Args:
            user_signal: whether a preempted job gets the signal that it requested instead of SIGTERM.
        """
        root = self.root
        (root / "plugstack.conf").write_text("")
        for number in range(self.gpus):
            device = root / "dev" / f"gpu{number}"
            if not device.exists():  # SLURM requires a character device: this is /dev/null under another name.
                os.mknod(device, 0o20666, os.makedev(1, 3))
        (root / "gres.conf").write_text(
            f"NodeName={self.host} Name=gpu File={root}/dev/gpu[0-{self.gpus - 1}]\n" if self.gpus else "")
        (root / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={self.host}(127.0.0.1)
SlurmctldPort={self.controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for cred_expire before it starts again.
AuthInfo=socket={root}/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/log/slurmctld.log
# No cgroups, no mail, no MPI: none of it is needed, and little of it works in a container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
PlugStackConfig={root}/plugstack.conf
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000,batch_sched_delay=0,requeue_delay=1
PriorityType=priority/basic
FirstJobId={int(time.time()) % 60_000_000}
MaxArraySize={self.max_array}
MaxJobCount={self.max_jobs}
KillWait=15
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self.database_port}
AccountingStoragePass={root}/munge.sock
JobAcctGatherType=jobacct_gather/none
DefMemPerCPU=512
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{"SlurmctldParameters=preempt_send_user_signal" if user_signal else ""}
{self.node_lines()}
""")
        accounting = root / "slurmdbd.conf"
        accounting.write_text(f"""
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={self.database_port}
SlurmUser=root
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={self.sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounts
LogFile={root}/log/slurmdbd.log
PidFile={root}/slurmdbd.pid
""")
        accounting.chmod(0o600)

    def reconfigure(self, user_signal: bool) -> None:
        """Change the signal of preempted jobs; see `configure`."""
        self.configure(user_signal)
        self.ask("scontrol", "reconfigure")

    def take_at_most(self, jobs: int) -> None:
        """Change MaxJobCount and restart the controller, which reads it; array tasks and finished jobs count."""
        self.max_jobs = jobs
        self.configure()
        self.end("slurmctld")
        self.restart("slurmctld")
        wait_for(lambda: self.works("squeue"), 120, "the controller's return")

    def end_jobs(self) -> None:
        """Cancel all jobs, if SLURM responds."""
        if self.works("scancel", "-u", "root"):
            with contextlib.suppress(TimeoutError, subprocess.SubprocessError):
                wait_for(lambda: not self.ask("squeue", "-h"), 30, "the jobs' end")

    def stop(self) -> None:
        """End all jobs and all processes that were started here, newest first."""
        self.end_jobs()
        for process in reversed(self._started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running_cluster(root: Path, **settings: int) -> Iterator[Cluster]:
    """Run a cluster until the context ends."""
    cluster = Cluster(root, **settings)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def states_of(cluster: Cluster, jobs: Sequence[str]) -> dict[str, str]:
    """Return sacct's state of each task of these jobs, by names such as 12_0."""
    lines = cluster.ask("sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(jobs)).splitlines()
    return {name: state.split()[0] for name, state in (line.split("|") for line in lines)}
