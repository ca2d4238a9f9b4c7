"""Soak: the real configuration, killed twice at random moments and finished on one rank, twenty times.

Each time: 2 ranks, SIGKILL to one; 3 ranks, SIGKILL to one; 1 rank to the end. The final state_digest must
be that of the undisturbed run on 2 ranks. A time in which the run was complete before a kill counts
for nothing and is made again. The tally is kept after each time, and a later call goes on with it as
long as program and settings are the same.

    twenty.py [--program REKINDLE] [--run launch/fashion.yaml] [--set train.epochs=2] [--times 20]
              [--work FOLDER] [--tally bench/results/twenty.json]
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import time

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import rekindle  # noqa: E402

LIMIT_S = 3600
RANKS_KILLED = (2, 3)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "rekindle"))
    parser.add_argument("--run", default=os.path.join(ROOT, "launch", "fashion.yaml"))
    parser.add_argument("--set", action="append", dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--work", default=os.path.join(ROOT, "runs", "twenty"))
    parser.add_argument("--tally", default=os.path.join(ROOT, "bench", "results", "twenty.json"))
    given = parser.parse_args()
    given.sets = given.sets or ["train.epochs=2"]
    return given


def keep(path, tally):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".new", "w") as file:
        json.dump(tally, file, indent=1)
        file.write("\n")
    os.replace(path + ".new", path)


def open_tally(given):
    with open(given.program, "rb") as file:
        program = hashlib.sha256(file.read()).hexdigest()
    with open(given.run, "rb") as file:
        configuration = hashlib.sha256(file.read()).hexdigest()
    about = {"program_sha256": program, "run": os.path.relpath(given.run, ROOT), "run_sha256": configuration,
             "sets": given.sets}
    if os.path.exists(given.tally):
        with open(given.tally) as file:
            tally = json.load(file)
        if all(tally.get(key) == value for key, value in about.items()):
            return tally
    return {**about, "times": []}


def last_restore(ended):
    lines = [line for line in ended.output.splitlines() if "restored g" in line]
    return lines[-1][lines[-1].index("restored g"):] if lines else None


def one_time(given, tally, run_dir, pace):
    """One run with two kills; `pace` is what a whole run takes. None: it was complete before a kill."""
    shutil.rmtree(run_dir, ignore_errors=True)
    kills = []
    for ranks in RANKS_KILLED:
        # the first kill leaves work for the second one; a launch's first second is fair game, too
        delay = random.uniform(0, 0.6 * pace)
        victim = random.randrange(ranks)
        command = rekindle.train_command(given.program, ranks, given.run, run_dir, given.sets)
        ended, sent = rekindle.kill_rank(command, given.program, victim, delay, LIMIT_S)
        if not sent or ended.code == 0 or "finished: " in ended.output:
            assert ended.code in (0, 137), ended
            return None
        assert ended.code == 137, ended
        kills.append({"ranks": ranks, "victim": victim, "after_s": round(delay, 3), "exit_code": ended.code,
                      "restored": last_restore(ended)})
    ended = rekindle.train(given.program, 1, given.run, run_dir, given.sets, limit=LIMIT_S)
    digest = rekindle.digest_of(ended) if ended.code == 0 else None
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "kills": kills, "finish": {
        "ranks": 1, "exit_code": ended.code, "restored": last_restore(ended), "state_digest": digest},
        "passed": digest == tally["undisturbed"]}


def main():
    given = arguments()
    tally = open_tally(given)
    run_dir = os.path.join(given.work, "killed")
    if "undisturbed" not in tally:
        shutil.rmtree(given.work, ignore_errors=True)
        ended = rekindle.train(given.program, 2, given.run, os.path.join(given.work, "undisturbed"), given.sets,
                               limit=LIMIT_S)
        assert ended.code == 0, ended
        tally["undisturbed"], tally["undisturbed_s"] = rekindle.digest_of(ended), round(ended.seconds, 2)
        print("undisturbed: %s in %.1f s" % (tally["undisturbed"], ended.seconds), flush=True)
        keep(given.tally, tally)
    pace = tally["undisturbed_s"]
    while len(tally["times"]) < given.times:
        result = one_time(given, tally, run_dir, pace)
        # how busy the machine is changes
        pace = 0.8 * pace if result is None else min(1.1 * pace, tally["undisturbed_s"])
        if result is None:
            print("complete before a kill: once more", flush=True)
            continue
        tally["times"].append(result)
        tally["passed"] = sum(one["passed"] for one in tally["times"])
        keep(given.tally, tally)
        print("%d of %d: %s" % (len(tally["times"]), given.times, json.dumps(result)), flush=True)
    print("%d of %d passed" % (tally["passed"], len(tally["times"])))
    return 0 if tally["passed"] == len(tally["times"]) else 1


sys.exit(main())
