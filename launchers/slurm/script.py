"""Write an array's batch script: sbatch's options, and the shell code that each task runs first.

A task first checks that its node can run it: that the task's output can be written there, the user's `setup` lines
succeed, and Python and the code can be read. On a broken node, tasks would otherwise fail one after the other within
seconds and empty the queue. A task that fails the check is requeued with its node excluded, at most `most_excluded`
times.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from algd.errors import ExitCode
from launchers.settings import SlurmSettings

PREAMBLE = r"""
# Not SLURM_JOB_ID: that of an array's last task is also the whole array's.
task_id=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
leave_node() {
    echo "$SLURMD_NODENAME cannot run this task: $1"
    trap '' TERM
    excluded=$(scontrol show job "$task_id" | sed -n 's/.*ExcNodeList=\([^ ]*\).*/\1/p' | grep -v '(null)')
    count=0
    [ -z "$excluded" ] || count=$(scontrol show hostnames "$excluded" | wc -l)
    nodes=$(sinfo -h -N -p "$SLURM_JOB_PARTITION" -o %N | sort -u | wc -l)
    if [ "$count" -lt "$task_most" ] && [ $((count + 1)) -lt "$nodes" ] && scontrol requeuehold "$task_id"; then
        # The nodes of a task can be changed only while it waits; until SLURM ends this script there is time for it.
        if scontrol update "JobId=$task_id" "ExcNodeList=${excluded:+$excluded,}$SLURMD_NODENAME"; then
            scontrol release "$task_id"
            echo "requeued, with $SLURMD_NODENAME excluded"
        else
            scancel "$task_id"
        fi
        sleep 300
    fi
    exit "$task_exit"
}
task_begin=$(date +%s)
{ : >> "$task_log"; } 2> /dev/null || leave_node "it cannot write $task_log"
exec >> "$task_log" 2>&1
[ -e "$task_job" ] || echo "$SLURM_ARRAY_JOB_ID" > "$task_job"
task_name=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$task_names")
scontrol update "JobId=$task_id" "JobName=$task_name" || true
"""
CHECKS = r"""
"${task_python[@]}" -P -c 'import launchers.slurm.task' || leave_node "${task_python[*]} failed with exit code $?"
task_seconds=$(($(date +%s) - task_begin))
if [ $task_seconds -ge $task_limit ]; then
    echo "setup took $task_seconds s; after $task_limit s the task is asked to stop already: it needs more time"
    exit "$task_exit"
fi
"""


class Script(submitit.SlurmExecutor):
    """submitit's executor, for a command instead of a pickled function."""

    def text(self, command: str, count: int) -> str:
        """Return the sbatch file of an array of `count` tasks that execute the command."""
        self.parameters["map_count"] = count
        return str(self._make_submission_file_text(command, "0"))


def script_of(settings: SlurmSettings, folder: Path, tasks_file: Path, code: Path, module: str, count: int,
              options: dict[str, Any]) -> str:
    """Return the sbatch file of an array.

    Args:
        settings: this array's launcher settings.
        folder: the absolute folder for the tasks' output.
        tasks_file: the file that lists each task's runs (`launchers.slurm.task`).
        code: the code snapshot to run.
        module: the module that each task executes with the tasks file as its argument.
        count: number of tasks.
        options: submitit's parameters (`options_of`).
    """
    # The user's own PYTHONPATH, from the environment or from `setup`, stays behind the snapshot.
    path = shlex.quote(f"PYTHONPATH={code}") + '"${PYTHONPATH:+:$PYTHONPATH}"'
    python = f"env {path} {shlex.quote(sys.executable)}"
    executor = Script(folder, python=shlex.quote(sys.executable))
    executor.update_parameters(**options, setup=preamble(settings, folder, tasks_file, python))
    # Ignore the signal until the task has installed its own handler, since it would end the shell.
    command = f"trap '' USR2; exec {python} -P -u -m {module} {shlex.quote(str(tasks_file))}"
    return executor.text(shlex.join(["bash", "-c", command]), count)


def preamble(settings: SlurmSettings, folder: Path, tasks_file: Path, python: str) -> list[str]:
    """Return the shell code that runs before a task's command, in which `python` runs the snapshot's Python."""
    quoted = shlex.quote(str(folder))
    lines = [f'task_log={quoted}/"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}_0_log.out"',  # as submitit's step
             f"task_job={shlex.quote(str(job_file(tasks_file)))}",
             f"task_names={shlex.quote(str(names_file(tasks_file)))}",
             f"task_python=({python})", f"task_exit={int(ExitCode.CANNOT_BEGIN)}",
             f"task_most={settings.most_excluded + len(settings.exclude)}",
             f"task_limit={60 * settings.time - settings.signal_seconds}", *PREAMBLE.splitlines()]
    for line in settings.setup:
        failed = shlex.quote(f"setup: {line}: exit code ")
        lines += [f"echo {shlex.quote(f'+ {line}')}", line,
                  f"task_code=$?; [ $task_code -eq 0 ] || leave_node {failed}$task_code"]
    return lines + CHECKS.splitlines()


def job_file(tasks_file: Path) -> Path:
    """Return the file to which the first task that starts writes the array's job id."""
    return tasks_file.with_suffix(".job")


def names_file(tasks_file: Path) -> Path:
    """Return the file with the tasks' names, one per line."""
    return tasks_file.with_suffix(".names")


def options_of(settings: SlurmSettings, name: str, token: str, cpus: int, at_once: int | None,
               after: Sequence[str]) -> dict[str, Any]:
    """Return submitit's parameters.

    Args:
        settings: this array's launcher settings.
        name: the tasks' job name until they start.
        token: the job comment by which this submission can be found.
        cpus: cores per task.
        at_once: maximum number of running tasks; None: no limit.
        after: dependencies on other jobs, such as "afterany:12".
    """
    own = {str(key): value for key, value in settings.sbatch.items()}
    if after := [*after, *([str(own.pop("dependency"))] if "dependency" in own else [])]:
        own["dependency"] = ",".join(after)
    # The script itself redirects output to a file: a task whose output SLURM cannot open ends without a message.
    more: dict[str, Any] = {"requeue": True, "signal": f"USR2@{settings.signal_seconds}", "output": "/dev/null"}
    if settings.memory_gb is not None:
        more["mem"] = f"{round(settings.memory_gb * 1024)}M"
    return {
        "job_name": name, "comment": token, "partition": settings.partition, "account": settings.account,
        "qos": settings.qos, "constraint": settings.constraint, "exclude": ",".join(settings.exclude) or None,
        "time": settings.time, "cpus_per_task": cpus, "gpus_per_node": settings.gpus or None,
        "array_parallelism": at_once or 10**6,
        # srun, because SLURM signals a preemption only to job steps. Since 22.05 they do not inherit the cores.
        "use_srun": True, "srun_args": [f"--cpus-per-task={cpus}"], "stderr_to_stdout": True, "wckey": None,
        "additional_parameters": more | own}
