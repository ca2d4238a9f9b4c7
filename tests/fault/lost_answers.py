"""What a network file system does: calls that happened and report an error, reads that fail once, and ranks that see
an old directory.

Lost answers: each link and rename of a launch happens, but reports ENOENT, ESTALE or EEXIST. Nothing is lost by it:
the launch finishes, and every save counts. Unread: each look at the newest checkpoint fails once with EIO or ESTALE;
the restore still goes on from it. When it can never be read, the next older one is used, and the unread one is not
marked as rejected: an error of the way is no evidence. Old views: every look at the run directory fails with ENOENT
on all ranks but the first; they make none, for rank 0 alone chooses.

    lost_answers.py REKINDLE SHIM
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import short_run  # noqa: E402

NAMING = ("rename", "renameat", "renameat2", "linkat")
ANSWERS = ("ENOENT", "ESTALE", "EEXIST")
UNREAD = ("EIO", "ESTALE")


def finishes(run, ended, newest):
    """It ended well, from the step it should, and with nothing to tell."""
    wrong = run.check_end(ended, newest)
    if "passed over" in ended.output or "could not" in ended.output or "failed" in ended.output:
        wrong.append("it tells of a failure")
    return wrong


def lose_answers(run, scenarios, tally):
    planned = 0
    for name, prepared, newest, calls in scenarios:
        for call in (one for one in calls if one.name in NAMING):
            for answer in ANSWERS:
                planned += 1
                run.put(prepared)
                ended = run.launch(shim={**run.shim_environment(call.number, answer), "SHIM_HAPPENS": "1"})
                wrong = [] if len(ended.fired) == 1 else ["the answer was not lost"]
                hidden = call.path.endswith(".tmp")  # on its way out: the next launch sweeps it
                if not hidden:
                    wrong += finishes(run, ended, newest)
                elif ended.code != 0 or rekindle.digest_of(ended) != run.final:
                    wrong.append("it does not finish with the undisturbed run's bits")
                wrong += run.check_directory(ended)[1]
                wrong += run.check_end(run.launch(), short_run.STEPS)
                tally.check(not wrong, "%s: %s of %s" % (name, answer, call), "\n".join([*wrong, str(ended)]))
    return planned


def marks(run):
    return [path for path in run.files() if path.endswith(".rejected")]


def fail_reads(run, prepared, newest, calls, tally):
    planned = 0
    path = run.checkpoint_path(newest_name(run, prepared))
    step = newest
    for call in (one for one in calls if one.kind == "look" and one.path == path):
        for error in UNREAD:
            planned += 1
            run.put(prepared)
            ended = run.launch(shim=run.shim_environment(call.number, error))
            wrong = [] if len(ended.fired) == 1 else ["no read failed"]
            wrong += run.check_end(ended, step)
            wrong += ["%s marks what was only unread" % mark for mark in marks(run)]
            tally.check(not wrong, "%s once (%s)" % (error, call), "\n".join([*wrong, str(ended)]))
    for error in UNREAD:
        planned += 1
        run.put(prepared)
        ended = run.launch(shim={**run.shim_environment(1, error, always=True), "SHIM_PATH": path})
        wrong = [] if len(ended.fired) > 2 else ["fewer than three reads failed"]
        if ended.code != 0 or rekindle.digest_of(ended) != run.final:
            wrong.append("it does not finish with the undisturbed run's bits")
        if ended.restored_step != step - 1 or "cannot be read and is passed over" not in ended.output:
            wrong.append("it goes on from step %s" % ended.restored_step)
        wrong += ["%s marks what was only unread" % mark for mark in marks(run)]
        tally.check(not wrong, "%s always" % error, "\n".join([*wrong, str(ended)]))
    return planned


def newest_name(run, prepared):
    run.put(prepared)
    return run.checkpoint_names()[-1]


def launch_with_old_views(run, blind):
    """Two ranks; one of them, the first or the other, sees nothing of the run directory."""
    plain = rekindle.train_command(run.program, 1, run.run_file, run.run_dir)
    at = plain.index(run.program)
    start, program = plain[:at], plain[at:]
    shim = run.shim_environment(1, "ENOENT", always=True)
    hidden = ["env", *("%s=%s" % pair for pair in shim.items()), *program]
    first, others = (hidden, program) if blind == "first" else (program, hidden)
    if os.path.exists(run.report()):
        os.unlink(run.report())
    ended = rekindle.run([*start, *first, ":", "-n", "1", *others])
    return short_run.Launch(ended, run.fired())


def hide_directory(run, prepared, newest, tally):
    run.put(prepared)
    ended = launch_with_old_views(run, "others")
    wrong = []
    if ended.code != 0 or rekindle.digest_of(ended) != run.final:
        wrong.append("it does not finish with the undisturbed run's bits")
    if ": step %d of" % newest not in ended.output:
        wrong.append("it does not go on from step %d" % newest)
    if ended.fired:
        wrong.append("ranks other than 0 look at the directory")
    tally.check(not wrong, "the other rank sees nothing", "\n".join([*wrong, str(ended)]))
    run.put(prepared)
    ended = launch_with_old_views(run, "first")  # the control: the same blindness, where it matters
    wrong = run.check_directory(ended)[1]
    if ended.code not in short_run.FAULT_CODES or not ended.fired:
        wrong.append("rank 0 does not miss the directory")
    tally.check(not wrong, "rank 0 sees nothing", "\n".join([*wrong, str(ended)]))
    return 2


def main():
    program, shim = sys.argv[1:]
    work = short_run.work_folder("lost-answers")
    tally = rekindle.Tally()
    try:
        run = short_run.ShortRun(program, shim, work)
        run.clear()
        begin = run.count_calls()
        killed = run.prepare_killed("killed", begin)
        run.put(killed)
        newest = max(rekindle.saved_steps(run.run_dir))
        resume = run.count_calls()
        planned = lose_answers(run, [("begin", None, None, begin), ("resume", killed, newest, resume)], tally)
        planned += fail_reads(run, killed, newest, resume, tally)
        planned += hide_directory(run, killed, newest, tally)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tally.finish(planned=planned)


sys.exit(main())
