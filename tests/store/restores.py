"""Runs that go on, or are evaluated, from a checkpoint in an object store.

    restores.py REKINDLE
"""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import store_case  # noqa: E402
from store_case import NAME, PREFIX, STEPS  # noqa: E402

USAGE, FAULT, NONE = 2, 1, 3


def train(case, *sets, ranks=0, run_dir="run", size="small", **variables):
    return rekindle.train(case.program, ranks, case.fixture.run_files[size], os.path.join(case.folder, run_dir), sets,
                          extra=case.server.environment(**variables))


def evaluate(case, address, run_dir="run", **variables):
    return rekindle.run([case.program, "eval", case.fixture.run_files["small"], "--from", address, "--set",
                         "run.dir=" + os.path.join(case.folder, run_dir)], case.server.environment(**variables))


def finishes_like_the_undisturbed_run(case, ended, size="small"):
    case.check(ended.code == 0 and rekindle.digest_of(ended) == case.fixture.digests[size], "the same bits", ended)


def only_checkpoints_are_left(case, run_dir="run"):
    """No hidden temporaries."""
    left = [name for name in os.listdir(os.path.join(case.folder, run_dir, "checkpoints")) if name.startswith(".")]
    case.check(not left, "no temporaries", left)


def a_run_goes_on_from_an_object_on_another_number_of_ranks(case):
    case.put("large")
    ended = train(case, "resume=%s/%s" % (PREFIX, NAME % 1), ranks=2, size="large")
    case.says(ended, 0, "downloaded and verified %s/%s" % (PREFIX, NAME % 1), "restored %s: step 1 of 3" % NAME % 1)
    finishes_like_the_undisturbed_run(case, ended, "large")
    only_checkpoints_are_left(case)
    case.check(rekindle.saved_steps(os.path.join(case.folder, "run")) == [1, 2, 3], "the restored step is kept")


def a_run_goes_on_from_the_newest_good_one_under_a_prefix(case):
    case.put()
    bad = bytearray(case.bytes("small", 3))
    bad[-3000] ^= 1
    case.server.put("runs/first/" + NAME % 3, bytes(bad))
    case.server.put("runs/first/" + NAME % 4, b"no checkpoint")
    ended = train(case, "resume=" + PREFIX)
    case.says(ended, 0, "%s of the store is damaged" % NAME % 3, "%s of the store is damaged" % NAME % 4, "step 2 of 3")
    finishes_like_the_undisturbed_run(case, ended)
    only_checkpoints_are_left(case)


def a_damaged_object_is_refused_and_nothing_is_left(case):
    bad = bytearray(case.bytes("small", 2))
    bad[-3000] ^= 1
    case.server.put("runs/first/" + NAME % 2, bytes(bad))
    ended = train(case, "resume=%s/%s" % (PREFIX, NAME % 2), ranks=2)
    case.says(ended, NONE, "cannot be used", "does not match its digest")
    case.left_nothing()
    case.says(train(case, "resume=" + PREFIX), NONE, "none that can be used")
    case.left_nothing()


def what_is_not_there_is_said(case):
    case.says(train(case, "resume=%s/%s" % (PREFIX, NAME % 2)), NONE, "there is no s3://bucket/runs/first/")
    case.says(train(case, "resume=" + PREFIX), NONE, "holds 0 checkpoint(s)")
    case.left_nothing()


def a_store_that_fails_ends_the_launch_on_every_rank(case):
    case.put()
    injected = case.server.fail("GET", "status", part=".h5", count=100, code=500)
    ended = train(case, "resume=%s/%s" % (PREFIX, NAME % 2), ranks=2)
    case.says(ended, FAULT, "HTTP 500")
    case.check(injected.fired == 3, "after its attempts", injected.fired)
    case.left_nothing()


def another_configuration_is_refused_and_nothing_is_left(case):
    case.put()
    case.says(train(case, "resume=%s/%s" % (PREFIX, NAME % 2), "run.seed=4"), USAGE, "run.seed")
    case.left_nothing()


def an_evaluation_reads_an_object_and_leaves_nothing(case):
    case.put()
    local = evaluate(case, case.file("small", STEPS))
    stored = evaluate(case, "%s/%s" % (PREFIX, NAME % STEPS), TMPDIR=case.folder)
    case.says(stored, 0, "downloaded and verified")
    results = [json.loads(rekindle.last_line(ended)) for ended in (local, stored)]
    case.check(results[0] == results[1], "the same as of the file", results)
    case.left_nothing()


if __name__ == "__main__":
    sys.exit(store_case.run_all(sys.modules["__main__"], os.path.abspath(sys.argv[1])))
