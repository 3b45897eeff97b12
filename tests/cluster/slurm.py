"""A small Slurm on this machine: one controller, two nodes on loopback, no accounting.

Debian: apt-get install slurm-wlm munge. It needs root, which starts munge's daemon as its own user.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
_CONF = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node-%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node-%n.log
MailProg=/bin/true
JobRequeue=1
KillWait=2
SchedulerParameters=sched_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs=2 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> list[str]:
    """What this machine lacks for it."""
    lacks = [name for name in PROGRAMS if shutil.which(name) is None]
    return lacks if lacks or os.geteuid() == 0 else ["root"]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; yields the environment in which Slurm's programs find it."""
    conf = folder / "slurm.conf"
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    conf.write_text(_CONF.format(host=socket.gethostname().split(".")[0], folder=folder))
    env = {**os.environ, "SLURM_CONF": str(conf)}
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge")
        subprocess.run(["su", "munge", "-s", "/bin/sh", "-c", "munged --force"], check=True)
    started = [
        subprocess.Popen([*words, "-D", "-f", str(conf)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"])
    ]
    try:
        for _ in range(60):
            told = subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True, check=False)
            if told.stdout.split() == ["idle"]:
                break
            time.sleep(0.5)
        else:
            raise RuntimeError(f"no node came up: {told.stdout}{told.stderr}; see {folder}")
        yield env
    finally:
        subprocess.run(["scancel", "-u", "root"], env=env, check=False)
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=20)
