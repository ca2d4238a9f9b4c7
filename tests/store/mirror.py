"""Runs that are mirrored to an object store: the run directory is lost and the run goes on all the same; the store
fails in every way and no step notices.

    mirror.py REKINDLE
"""

import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import ledger  # noqa: E402
import rekindle  # noqa: E402
import store_case  # noqa: E402
from store_case import PREFIX, STEPS  # noqa: E402

USAGE, FAULT, NONE, STOPPED = 2, 1, 3, 75
KEY = "runs/first/"


def object_key(generation, step):
    return KEY + "g%04d-step-%012d.h5" % (generation, step)


def train(case, *sets, ranks=0, size="small", mirror=PREFIX, fault=None, **variables):
    return rekindle.train(case.program, ranks, case.fixture.run_files[size], case.run_dir,
                          [*(["checkpoint.mirror=" + mirror] if mirror else []), *sets], fault=fault, extra=case.server.environment(**variables))


def finished(case, ended, size="small"):
    case.check(ended.code == 0 and rekindle.digest_of(ended) == case.fixture.digests[size], "the same bits", ended)


def is_stored(case, generation, step):
    """The object is the file of this directory."""
    name = os.path.join(case.run_dir, "checkpoints", "g%04d-step-%012d.h5" % (generation, step))
    with open(name, "rb") as file:
        stored = case.server.objects.get(object_key(generation, step), (None,))[0]
        return case.check(stored == file.read(), "step %d of launch %d is in the store" % (step, generation))


# ---- what it is for

def a_lost_directory_is_filled_from_the_store_and_the_bits_are_the_same(case):
    ended = train(case, fault="rank:0,step:2,at:gradient,send:TERM")
    case.says(ended, STOPPED, "mirrored to " + PREFIX)
    case.check(is_stored(case, 1, 2), "the stop waited for its checkpoint", ended)
    case.lose_run_dir()
    ended = train(case, ranks=2)
    case.says(ended, 0, "the run directory is empty: downloaded and verified g0001-step-000000000002.h5", "step 2 of 3",
              "generation 2")
    finished(case, ended)
    is_stored(case, 2, 3)
    case.check(sorted(case.server.objects)[-2:] == [KEY + "owner.g0001", KEY + "owner.g0002"], "both launches signed",
               sorted(case.server.objects))
    case.lose_run_dir()
    ended = train(case, ranks=3)
    case.says(ended, 0, "downloaded and verified g0002-step-000000000003.h5", "step 3 of 3")
    finished(case, ended)


def a_large_run_is_mirrored_in_parts(case):
    finished(case, train(case, ranks=2, size="large"), "large")
    is_stored(case, 1, 3)
    case.check(case.server.count("POST", "uploads=") > 0, "in parts")
    case.lose_run_dir()
    ended = train(case, ranks=4, size="large")
    case.says(ended, 0, "downloaded and verified g0001-step-000000000003.h5")
    finished(case, ended, "large")


def a_run_killed_again_and_again_that_loses_its_directory_each_time_ends_with_the_same_bits(case):
    """Each launch dies in another phase on another number of ranks, whatever the mirror is doing then."""
    sets = ["train.max_steps=0", "train.epochs=100", "train.evaluate_every_steps=100"]
    reference = rekindle.train(case.program, 0, case.fixture.run_files["small"], os.path.join(case.folder, "whole"),
                               sets + ["checkpoint.every_steps=0"])
    restored = []
    kills = ((0, 60, "gradient"), (2, 130, "reduce"), (3, 200, "save"), (1, 270, "after_commit"), (4, 340, "optimizer"))
    for ranks, step, at in kills:
        ended = train(case, *sets, ranks=ranks, fault="rank:%d,step:%d,at:%s" % (max(ranks - 1, 0), step, at))
        case.check(ended.code not in (0, USAGE, NONE) and "REKINDLE_FAULT fires" in ended.output, "killed", ended)
        restored += [int(step) for step in re.findall(r"downloaded and verified g\d+-step-(\d+)", ended.output)]
        case.lose_run_dir()
    ended = train(case, *sets, ranks=2)
    case.check(ended.code == 0 and rekindle.digest_of(ended) == rekindle.digest_of(reference), "the same bits", ended)
    case.check(restored and restored == sorted(restored), "went on from the store, never from farther back", restored)


def a_damaged_object_is_passed_over(case):
    ended = train(case, "checkpoint.keep_last=9")
    finished(case, ended)
    steps = [step for step in (1, 2, 3) if object_key(1, step) in case.server.objects]
    case.check(steps[-1] == 3, "the last one is there", steps)
    case.server.put(object_key(1, 2), case.bytes("small", 2))
    bad = bytearray(case.bytes("small", 3))
    bad[-3000] ^= 1
    case.server.put(object_key(1, 3), bytes(bad))
    case.lose_run_dir()
    ended = train(case)
    case.says(ended, 0, "g0001-step-000000000003.h5 of the store is damaged", "step 2 of 3")
    finished(case, ended)
    case.lose_run_dir()
    for key in list(case.server.objects):
        if key.endswith(".h5"):
            case.server.put(key, b"nothing of worth")
    case.says(train(case), NONE, "none that can be used")


def an_evaluation_finds_the_mirror_and_leaves_nothing(case):
    finished(case, train(case))
    case.lose_run_dir()
    ended = rekindle.run([case.program, "eval", case.fixture.run_files["small"], "--set", "run.dir=" + case.run_dir,
                          "--set", "checkpoint.mirror=" + PREFIX], case.server.environment(TMPDIR=case.folder))
    case.says(ended, 0, '"step": 3')
    case.left_nothing()


def only_the_newest_of_a_launch_stay_in_the_store(case):
    case.put(steps=[1], prefix="runs/first")
    case.server.objects[object_key(1, 1)] = case.server.objects.pop(KEY + "g0001-step-000000000001.h5")
    ended = train(case, "checkpoint.keep_last=1", "log.every_steps=1")
    finished(case, ended)
    kept = sorted(key for key in case.server.objects if key.endswith(".h5"))
    case.check(kept == [object_key(1, 1), object_key(2, 3)], "one of each launch", kept)


def what_the_directory_keeps_for_ever_stays_in_the_store(case):
    ended = train(case, "train.max_steps=0", "train.epochs=50", "checkpoint.keep_last=1", "checkpoint.keep_every=20")
    case.says(ended, 0)
    sent = {key for method, key, query, code in case.server.log if method == "PUT" and key.endswith(".h5") and code == 200}
    sent = {os.path.basename(key) for key in sent}
    stored = {os.path.basename(key) for key in case.server.objects if key.endswith(".h5")}
    here = {name for name in os.listdir(os.path.join(case.run_dir, "checkpoints")) if name.endswith(".h5")}
    case.check(stored == sent & here, "of what was sent, what stands in the directory", (sorted(sent), sorted(here)))
    case.check(len(stored) > 1, "more than the newest stays", sorted(stored))


def damage(case, steps):
    """In the run directory, whose store holds the same files whole."""
    for step in steps:
        with open(os.path.join(case.run_dir, "checkpoints", "g0001-step-%012d.h5" % step), "r+b") as file:
            file.seek(-3000, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))


def a_directory_with_nothing_valid_goes_on_from_the_store(case):
    for ranks in (0, 2):
        case.lose_run_dir()
        case.server.objects.clear()
        case.says(train(case, "checkpoint.keep_last=9", fault="rank:0,step:2,at:gradient,send:TERM"), STOPPED)
        is_stored(case, 1, 2)
        damage(case, [1, 2])
        kept = case.server.objects[object_key(1, 2)][0]
        ended = train(case, ranks=ranks)
        case.says(ended, 0, "g0001-step-000000000002.h5 is damaged", "is asked", "downloaded and verified " + PREFIX,
                  "step 2 of 3", "generation 2")
        finished(case, ended)
        is_stored(case, 2, 3)
        names = os.listdir(os.path.join(case.run_dir, "checkpoints"))
        case.check({"g0001-step-000000000002.h5", "g0001-step-000000000002.h5.rejected", "g0002-step-000000000002.h5"}
                   <= set(names) and not any(name.endswith(".tmp") for name in names), "the evidence stays", names)
        case.check(case.server.objects[object_key(1, 2)][0] == kept, "the store's file is untouched")


def a_directory_with_nothing_valid_says_so_when_the_store_does_not_help(case):
    case.says(train(case, "checkpoint.keep_last=9", fault="rank:0,step:2,at:gradient,send:TERM"), STOPPED)
    damage(case, [1, 2])
    before = sorted(os.listdir(os.path.join(case.run_dir, "checkpoints")))
    ended = train(case, ranks=2, AWS_ENDPOINT_URL="http://127.0.0.1:1", AWS_MAX_ATTEMPTS="1")
    case.says(ended, NONE, "the mirror does not help", "none can be used", "does not match its digest")
    for key in list(case.server.objects):
        if key.endswith(".h5"):
            case.server.put(key, b"nothing of worth")
    ended = train(case)
    case.says(ended, NONE, "of the store is damaged", "the mirror does not help", "none can be used")
    ended = rekindle.run([case.program, "eval", case.fixture.run_files["small"], "--set", "run.dir=" + case.run_dir,
                          "--set", "checkpoint.mirror=" + PREFIX], case.server.environment(TMPDIR=case.folder))
    case.says(ended, NONE, "none can be used")
    case.check(sorted(os.listdir(os.path.join(case.run_dir, "checkpoints"))) == before, "nothing was written")
    case.server.put(object_key(1, 2), case.bytes("small", 2))
    ended = rekindle.run([case.program, "eval", case.fixture.run_files["small"], "--set", "run.dir=" + case.run_dir,
                          "--set", "checkpoint.mirror=" + PREFIX], case.server.environment(TMPDIR=case.folder))
    case.says(ended, 0, '"step": 2')
    case.check(sorted(os.listdir(os.path.join(case.run_dir, "checkpoints"))) == before, "nothing was written", ended)


# ---- whose prefix it is

def what_another_directory_wrote_later_is_left_alone(case):
    case.says(train(case, mirror=None, fault="rank:0,step:1,at:gradient,send:TERM"), STOPPED)
    case.server.put(object_key(9, 1), case.bytes("small", 1))
    ended = train(case)
    case.says(ended, 0, "holds what launch 9 wrote", "this is launch 2", "training goes on without the mirror")
    finished(case, ended)
    case.check(case.server.count("PUT") == 0 and case.server.count("DELETE") == 0, "nothing was sent", case.server.log)


def two_directories_do_not_share_a_prefix(case):
    case.says(train(case, mirror=None, fault="rank:0,step:1,at:gradient,send:TERM"), STOPPED)
    case.server.put(KEY + "owner.g0002", b"{}")
    ended = train(case)
    case.says(ended, 0, "holds what launch 2 wrote from another run directory")
    finished(case, ended)
    case.check(not any(key.endswith(".h5") for key in case.server.objects), "nothing was sent", case.server.log)


def a_claim_whose_answer_was_lost_is_ours(case):
    lost = case.server.fail("PUT", "lost", part="owner.g0001")
    finished(case, train(case))
    case.check(lost.fired == 1, "it happened")
    is_stored(case, 1, 3)


def a_path_in_a_new_directory_goes_above_what_the_mirror_holds(case):
    case.server.put(object_key(7, 1), case.bytes("small", 1))
    ended = train(case, "resume=" + case.file("small", 2))
    case.says(ended, 0, "generation 8")
    finished(case, ended)
    is_stored(case, 8, 3)


def a_fresh_start_over_a_mirror_is_refused(case):
    case.put()
    case.says(train(case, "resume=none"), USAGE, "resume: none", "holds 3 checkpoint(s)")
    case.left_nothing()


# ---- a store that fails costs no step

def costs_nothing(case, injected, *texts, sets=(), longest=4.0):
    """The run ends as ever, and the trouble was told."""
    ended = train(case, "checkpoint.mirror_patience=0.2", *sets)
    finished(case, ended)
    case.says(ended, 0, *texts)
    case.check(ended.seconds < longest, "in %.1f s" % longest, ended)
    case.check(rekindle.metrics(case.run_dir) == rekindle.metrics(case.fixture.runs["small"]), "every step is the same")
    case.check(all(one.fired > 0 for one in injected), "it happened", [one.fired for one in injected])
    return ended


def a_store_that_refuses_is_told(case):
    injected = case.server.fail("PUT", "status", count=1000, code=403, name="AccessDenied")
    costs_nothing(case, [injected], "was not mirrored (failure 1)", "HTTP 403 AccessDenied", "training goes on")
    case.check(case.events("mirror") and not any(one["ok"] for one in case.events("mirror")), "the ledger says so")
    case.check(not ledger.trouble(case.run_dir)[0], "in lines as they are described", ledger.trouble(case.run_dir))


def a_store_that_fails_is_told(case):
    injected = case.server.fail("PUT", "status", count=1000, code=500)
    costs_nothing(case, [injected], "the mirror has not got the last checkpoint")


def a_store_that_hangs_up_is_told(case):
    injected = case.server.fail("PUT", "hang up", count=1000)
    costs_nothing(case, [injected], "the mirror has not got the last checkpoint", "checkpoints copy")


def a_store_that_is_slow_is_told(case):
    injected = case.server.fail("PUT", "slow", count=1000, seconds=3)
    costs_nothing(case, [injected], "the mirror has not got the last checkpoint")


def a_store_that_sends_garbage_is_told(case):
    begin = case.server.fail("GET", "garbage", query="list-type", count=1000, skip=1)
    costs_nothing(case, [begin], "was not mirrored", "cannot be right")


def a_failure_that_passes_is_made_good(case):
    injected = case.server.fail("PUT", "status", part="owner.", count=1, code=403)
    ended = train(case, fault="rank:0,step:3,at:gradient,send:USR2")
    finished(case, ended)
    case.check(injected.fired == 1, "it happened", ended)
    sent, passed = map(int, re.search(r"(\d) sent, 1 failed, (\d) passed over", ended.output).groups())
    case.check(sent + passed == STEPS - 1, "every save is accounted for", ended)
    if sent > 0:  # else all three were saved before the refusal came
        is_stored(case, 1, 3)


def newer_checkpoints_take_the_place_of_waiting_ones(case):
    slow = case.server.fail("PUT", "slow", part="owner.", seconds=0.7)
    ended = train(case)
    finished(case, ended)
    sent, passed = map(int, re.search(r"(\d) sent, 0 failed, (\d) passed over", ended.output).groups())
    case.check(sent + passed == STEPS and passed > 0, "one or two waited in vain", ended)
    case.check(slow.fired == 1, "it happened")
    is_stored(case, 1, 3)


# ---- at the start

def an_empty_directory_and_a_silent_store_begin_nothing(case):
    injected = case.server.fail("GET", "status", count=1000, code=500)
    ended = train(case, ranks=2)
    case.says(ended, FAULT, "what %s holds cannot be told" % PREFIX, "HTTP 500", "resume: none")
    case.check(injected.fired == 3, "after its attempts", injected.fired)
    case.left_nothing()


def a_directory_with_checkpoints_does_not_wait_for_the_store(case):
    case.says(train(case, mirror=None, fault="rank:0,step:1,at:gradient,send:TERM"), STOPPED)
    ended = train(case, "checkpoint.mirror_patience=0", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    finished(case, ended)
    case.check(ended.seconds < 3, "at once", ended)


def a_mirror_that_cannot_be_right_is_refused_before_anything_is_written(case):
    case.says(train(case, mirror="s3://Bucket/x", ranks=2), USAGE, "names no bucket")
    case.says(train(case, mirror=PREFIX + "/a.h5"), USAGE, "is not a prefix")
    case.says(train(case, mirror="/some/where"), USAGE, "no s3:// address")
    case.says(train(case, AWS_SECRET_ACCESS_KEY=""), USAGE, "AWS_ACCESS_KEY_ID")
    case.left_nothing()


if __name__ == "__main__":
    sys.exit(store_case.run_all(sys.modules["__main__"], os.path.abspath(sys.argv[1])))
