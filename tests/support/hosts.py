"""Pretended hosts on one machine: each has a network of its own (a namespace on a common bridge), a name of its own, and
its own contents of one common folder that stands for a host's memory. For mpirun; needs root. Standard library only."""

import os
import stat
import subprocess


def available():
    """Whether such hosts can be made here."""
    probe = "rkp%x" % (os.getpid() & 0xfffff)
    tries = (["unshare", "--uts", "--mount", "true"], ["ip", "netns", "add", probe], ["ip", "netns", "del", probe],
             ["ip", "link", "add", probe, "type", "bridge"], ["ip", "link", "del", probe])
    try:
        return os.geteuid() == 0 and all(subprocess.run(one, stderr=subprocess.DEVNULL).returncode == 0 for one in tries)
    except OSError:
        return False


def command(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, "%s: %s" % (" ".join(words), done.stdout.decode(errors="replace"))


class Hosts:
    """Hosts 0, 1, … with `memory`, a folder, different on each: what host i has there lies in memory.i."""

    def __init__(self, work, count, memory):
        self.work, self.memory = work, memory
        tag = "%x" % (os.getpid() & 0xfffff)
        self.bridge = "rkb" + tag
        self.names = ["rk%s-%d" % (tag, i) for i in range(count)]
        self.network = "10.77.%d." % (os.getpid() % 250)
        self.agent = os.path.join(work, "agent")
        os.makedirs(memory, exist_ok=True)
        with open(self.agent, "w") as file:
            file.write(AGENT % {"memory": memory})
        os.chmod(self.agent, stat.S_IRWXU)
        try:
            self.make()
        except BaseException:
            self.close()
            raise

    def make(self):
        command("ip", "link", "add", self.bridge, "type", "bridge")
        command("ip", "addr", "add", self.network + "254/24", "dev", self.bridge)
        command("ip", "link", "set", self.bridge, "up")
        for i, name in enumerate(self.names):
            os.makedirs(self.memory_of(i))
            command("ip", "netns", "add", name)
            command("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            command("ip", "link", "set", name, "master", self.bridge, "up")
            command("ip", "-n", name, "addr", "add", self.network + "%d/24" % (i + 1), "dev", "eth0")
            for device in ("lo", "eth0"):
                command("ip", "-n", name, "link", "set", device, "up")

    def memory_of(self, host):
        return "%s.%d" % (self.memory, host)

    def mpirun(self, slots):
        """The beginning of a command line; slots: [(host, ranks), …], in order of rank."""
        network = self.network + "0/24"
        return ["mpirun", "-q", "-H", ",".join("%s:%d" % (self.names[host], ranks) for host, ranks in slots),
                "--mca", "plm", "rsh", "--mca", "plm_rsh_agent", self.agent, "--mca", "plm_rsh_no_tree_spawn", "1",
                "--mca", "oob_tcp_if_include", network, "--mca", "btl", "tcp,vader,self", "--mca", "btl_tcp_if_include",
                network, "--mca", "pml", "ob1", "--mca", "odls_base_sigkill_timeout", "0"]

    def close(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
            subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", self.bridge], stderr=subprocess.DEVNULL)


# What mpirun takes for ssh: drops the options, and runs the rest as that host.
AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec ip netns exec "$host" unshare --uts --mount sh -c '
    hostname "$0" && mount --bind "%(memory)s.${0##*-}" "%(memory)s" && eval "$1"' "$host" "$*"
"""
