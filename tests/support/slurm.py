"""A real Slurm of pretended nodes on this machine: daemons from a folder of their own, stopped by pid.
Standard library only.

    with Slurm(folder, nodes=3) as slurm:
        ended = slurm.srun(2, program_and_arguments)
"""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time

import rekindle

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "scancel", "squeue", "sinfo")
START_LIMIT_S = 30
STOP_LIMIT_S = 10
CONFIGURATION = """
ClusterName=rekindle
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
TmpFS={folder}/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=pmix
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,defer
KillWait=5
ReturnToService=2
JobRequeue=1
{settings}
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def missing():
    """Which of Slurm's programs are not installed."""
    return [program for program in PROGRAMS if find(program) is None]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def end_with_parent():
    """A test that is killed takes its daemons along."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)


class Slurm:
    def __init__(self, folder, nodes, settings=()):
        """settings: more lines for slurm.conf. RequeueExit=75 is for sbatch: Slurm requeues a plain srun's job,
        too, and ends it some ten seconds later for want of its srun."""
        self.folder, self.nodes, self.settings, self.daemons = os.path.abspath(folder), nodes, settings, []
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder, mode=0o755)
        # nodes share a host, and with it /dev/shm and its names
        self.environment = {"SLURM_CONF": os.path.join(self.folder, "slurm.conf"), "OMPI_MCA_pml": "ob1",
                            "OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_if_include": "lo"}

    def path(self, name):
        return os.path.join(self.folder, name)

    def configure(self):
        ports = free_ports(1 + self.nodes)
        host = socket.gethostname().split(".")[0]
        lines = ["NodeName=n%d NodeHostname=%s NodeAddr=127.0.0.1 Port=%d CPUs=4 State=UNKNOWN"
                 % (i + 1, host, ports[1 + i]) for i in range(self.nodes)]
        with open(self.path("slurm.conf"), "w") as file:
            file.write(CONFIGURATION.format(folder=self.folder, host=host, controller_port=ports[0],
                                            user=pwd.getpwuid(os.getuid()).pw_name, nodes="\n".join(lines),
                                            settings="\n".join(self.settings)))
        for name in ["state"] + ["%s.n%d" % (kind, i + 1) for kind in ("spool", "tmp") for i in range(self.nodes)]:
            os.mkdir(self.path(name))
        key = os.open(self.path("munge.key"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(key, os.urandom(1024))
        os.close(key)

    def spawn(self, program, *arguments):
        with open(self.path("daemons.log"), "ab") as log:
            self.daemons.append(subprocess.Popen(
                [find(program), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **self.environment}, preexec_fn=end_with_parent))

    def __enter__(self):
        try:
            self.configure()
            self.spawn("munged", "--foreground", "--force", *["--%s=%s" % (option, self.path("munge." + name))
                       for option, name in (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"),
                                            ("log-file", "log"), ("seed-file", "seed"))])
            self.wait_until("munged listens", lambda: os.path.exists(self.path("munge.socket")))
            configuration = self.environment["SLURM_CONF"]
            self.spawn("slurmctld", "-D", "-i", "-f", configuration)
            for i in range(self.nodes):
                self.spawn("slurmd", "-D", "-N", "n%d" % (i + 1), "-f", configuration)
            self.wait_until("all nodes are idle", self.all_idle)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.daemons and all(daemon.poll() is None for daemon in self.daemons):
            self.end_jobs()
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def wait_until(self, what, is_true):
        deadline = time.monotonic() + START_LIMIT_S
        while not is_true():
            ended = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise AssertionError("waiting until %s: %s\n%s" % (what, ended or "too long", self.logs()))
            time.sleep(0.05)

    def all_idle(self):
        ended = rekindle.run([find("sinfo"), "-h", "-N", "-o", "%t"], self.environment)
        return ended.code == 0 and ended.output.split() == ["idle"] * self.nodes

    def logs(self):
        """The ends of all logs: for a failure's text."""
        texts = []
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".log"):
                with open(self.path(name), errors="replace") as file:
                    texts.append("%s:\n%s" % (name, file.read()[-1500:]))
        return "\n".join(texts)

    # ---- jobs

    def srun_command(self, ranks, command, options=()):
        """At most one rank a node, while there are nodes."""
        return [find("srun"), "-n", str(ranks), "-N", str(min(ranks, self.nodes)), *options, *command]

    def srun(self, ranks, command, options=("--mpi=pmix",), extra=None):
        return rekindle.run(self.srun_command(ranks, command, options), {**self.environment, **(extra or {})})

    def start(self, ranks, command, options=("--mpi=pmix",), extra=None):
        """srun in the background."""
        return subprocess.Popen(self.srun_command(ranks, command, options), stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                env=rekindle.environment({**self.environment, **(extra or {})}),
                                start_new_session=True)

    def jobs(self):
        ended = rekindle.run([find("squeue"), "-h", "-o", "%i"], self.environment)
        return ended.output.split() if ended.code == 0 else []

    def end_jobs(self):
        """Of a test that failed halfway: the ranks would outlive the daemons."""
        for job in self.jobs():
            for how in (["--signal=KILL"], []):
                rekindle.run([find("scancel"), *how, job], self.environment)
        self.jobs_left()

    def jobs_left(self, patience=20):
        """A job that has ended is listed until its nodes have tidied up."""
        deadline = time.monotonic() + patience
        while True:
            left = self.jobs()
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)

    def cancel(self, *arguments):
        ended = rekindle.run([find("scancel"), *arguments], self.environment)
        assert ended.code == 0, ended
