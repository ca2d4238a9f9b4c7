"""The sides of a comparison: programs that stay alive, sleep while another one measures, and answer each command with
a line of JSON; and what a report says about the machine."""

import json
import os
import subprocess
import time


class Side:
    """`processes`: the first one's standard output is where answers come from. It begins with a description: `about`.
    As a context it leaves no process behind."""

    def __init__(self, name, processes, inputs):
        self.name, self.processes, self.inputs = name, processes, inputs
        self.about = self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                process.wait()

    def answer(self):
        line = self.processes[0].stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended")
        return json.loads(line)

    def tell(self, line):
        for commands in self.inputs():
            commands.write(line + "\n")
            commands.flush()

    def ask(self, line):
        self.tell(line)
        return self.answer()


class Launch(Side):
    """Our program on some ranks. Each reads its commands from a FIFO below the folder; `command` makes the program's
    own command line of the path that those FIFOs' names begin with."""

    def __init__(self, mpirun, ranks, folder, command):
        control = os.path.join(folder, "control")
        paths = [f"{control}.{rank}" for rank in range(ranks)]
        for path in paths:
            os.mkfifo(path)
        command = command(control)
        self.files = None
        more = ["--oversubscribe"] if ranks > os.cpu_count() else []
        process = subprocess.Popen([mpirun, "-q", "-n", str(ranks)] + more + command,
                                   stdout=subprocess.PIPE, text=True)

        def inputs():
            if self.files is None:
                self.files = [open(path, "w") for path in paths]
            return self.files

        super().__init__(os.path.basename(command[0]), [process], inputs)

    def close(self):
        self.tell("quit")
        for commands in self.files:
            commands.close()
        self.processes[0].wait()


class Scripts(Side):
    """Processes of another framework, each (command line, environment) reading commands from its standard input; the
    first one answers."""

    def __init__(self, name, starts):
        processes = []
        for command, environment in starts:
            processes.append(subprocess.Popen(
                command, env=dict(os.environ, **environment), text=True, stdin=subprocess.PIPE,
                stdout=None if processes else subprocess.PIPE))
        super().__init__(name, processes, lambda: [process.stdin for process in processes])

    def close(self):
        self.tell("quit")
        for process in self.processes:
            process.wait()


def processor():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def machine(load_before):
    """What every report says of where and when it was made."""
    return {"processor": processor(), "cores": os.cpu_count(), "load_before": load_before,
            "load_after": os.getloadavg()[0],
            "scheduling": "other" if os.sched_getscheduler(0) == os.SCHED_OTHER else "realtime",
            "date": time.strftime("%Y-%m-%d")}


def store(path, report):
    with open(path, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
