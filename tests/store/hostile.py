"""A store that fails, stalls, lies or never ends: what can pass is tried again, what cannot be right is refused, all
within bounds, and nothing wrong is ever called a checkpoint. Each test counts that its injection fired.

    hostile.py REKINDLE
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import rekindle  # noqa: E402
import s3_server  # noqa: E402
import store_case  # noqa: E402
from store_case import NAME, PREFIX  # noqa: E402

USAGE, FAULT, NONE = 2, 1, 3
MEMORY_KIB = 160 << 10
# a process between: what this one needs would be counted, too
MEASURE = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
           "print('KiB', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")


def passes(case, *rule, times=1, says="1 copied", **how):
    """The copy succeeds although this happens so many times."""
    injected = case.server.fail(*rule, count=times, **how)
    ended = case.command("copy", case.file("small", 1), PREFIX)
    case.says(ended, 0, says)
    case.check(injected.fired == times, "it happened %d times" % times, injected.fired)
    case.holds(1)


def in_what_is_read(case, code, *texts, do, size="small", times=100, **how):
    """A copy from the store, while reading misbehaves, ends so."""
    case.put(size, steps=[1])
    injected = case.server.fail("GET", do, part=".h5", count=times, **how)
    target = os.path.join(case.folder, "run")
    ended = case.command("copy", PREFIX + "/" + NAME % 1, target)
    case.says(ended, code, *texts)
    case.check(injected.fired > 0, "it happened", ended)
    if code != 0:
        case.left_nothing()
    return injected, ended


def in_the_listing(case, *texts, do, **how):
    """A listing that cannot be right is refused, within bounds of memory."""
    case.put()
    injected = case.server.fail("GET", do, count=100, **how)
    ended = rekindle.run([sys.executable, "-c", MEASURE, case.program, "checkpoints", "ls", PREFIX],
                         case.server.environment())
    output, _, kib = ended.output.rpartition("KiB ")
    case.check(ended.code == FAULT and all(text in output for text in texts), "refused: %s" % list(texts), ended)
    case.check(injected.fired == 1, "refused at once, not repeated", (injected.fired, output))
    case.check(int(kib) < MEMORY_KIB, "memory", kib)


# ---- what passes

def a_store_that_fails_twice_is_asked_again(case):
    passes(case, "PUT", "status", times=2, code=500)


def a_store_that_is_busy_is_asked_again(case):
    passes(case, "PUT", "status", times=2, code=503, name="SlowDown")


def a_store_that_wants_fewer_requests_is_asked_again(case):
    passes(case, "HEAD", "status", times=2, code=429)


def an_upload_that_stalled_is_sent_again(case):
    passes(case, "PUT", "status", code=400, name="RequestTimeout")


def a_connection_that_breaks_is_made_again(case):
    passes(case, "PUT", "hang up", times=2)


def a_store_without_an_answer_is_given_up_and_asked_again(case):
    passes(case, "PUT", "slow", seconds=4)


def an_answer_that_was_lost_does_not_make_a_copy_fail(case):
    passes(case, "PUT", "lost", says="the same is there already")


def a_completion_whose_answer_was_lost_counts(case):
    injected = case.server.fail("POST", "lost", query="uploadId=")
    case.says(case.command("copy", case.file("large", 1), PREFIX), 0)
    case.check(injected.fired == 1, "it happened")
    case.holds(1, "large")


def a_completion_that_failed_after_its_200_is_repeated(case):
    injected = case.server.fail("POST", "late error", query="uploadId=", count=2)
    case.says(case.command("copy", case.file("large", 1), PREFIX), 0, "1 copied")
    case.check(injected.fired == 2, "it happened")
    case.holds(1, "large")


def a_transfer_that_breaks_in_the_middle_goes_on(case):
    in_what_is_read(case, 0, "1 copied", do="hang up in the body", size="large", times=2, skip=1)


# ---- what does not pass

def a_store_that_keeps_failing_is_given_up_with_its_reason(case):
    injected = case.server.fail("PUT", "status", count=100, code=500, message="a disk is on fire")
    case.says(case.command("copy", case.file("small", 1), PREFIX), FAULT, "HTTP 500", "a disk is on fire")
    case.check(injected.fired == 3, "AWS_MAX_ATTEMPTS attempts", injected.fired)


def a_refusal_is_not_repeated(case):
    injected = case.server.fail("PUT", "status", count=100, code=403, name="AccessDenied")
    case.says(case.command("copy", case.file("small", 1), PREFIX), USAGE, "HTTP 403 AccessDenied", "may do")
    case.check(injected.fired == 1, "once", injected.fired)


def a_refusal_that_repeats_our_secrets_is_not_printed(case):
    echo = "%s %s" % (s3_server.KEY_ID, s3_server.SECRET)
    injected = case.server.fail("GET", "status", count=100, code=403, name="AccessDenied", message=echo)
    ended = case.command("ls", PREFIX, REKINDLE_LOG="debug")
    case.says(ended, USAGE, "HTTP 403")
    case.check(injected.fired == 1 and s3_server.KEY_ID not in ended.output and s3_server.SECRET not in ended.output,
               "neither is printed", ended)


def a_bucket_elsewhere_is_named_with_its_region(case):
    injected = case.server.fail("GET", "status", code=301, name="PermanentRedirect",
                                headers=[("x-amz-bucket-region", "eu-far-7"), ("Location", "http://192.0.2.1/")])
    ended = case.command("ls", PREFIX)
    case.says(ended, USAGE, "AWS_REGION=eu-far-7")
    case.check(injected.fired == 1, "redirections are not followed", ended)


def a_bucket_that_is_not_there_is_said(case):
    case.says(case.command("ls", "s3://no-bucket/runs"), USAGE, "NoSuchBucket")


def nobody_listening_is_said(case):
    ended = case.command("ls", PREFIX, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    case.says(ended, FAULT, "3 attempts", "AWS_ENDPOINT_URL")


def a_clock_that_is_wrong_is_said(case):
    case.server.fail("GET", "status", code=403, name="RequestTimeTooSkewed")
    case.says(case.command("ls", PREFIX), USAGE, "clock")


# ---- lies

def a_flipped_bit_on_the_way_is_found(case):
    in_what_is_read(case, NONE, "MISSED", "does not match its digest", do="corrupt", size="large", skip=1)


def an_answer_that_is_too_short_is_refused(case):
    in_what_is_read(case, FAULT, "cannot be right", "fewer bytes", do="short")


def an_answer_with_another_range_is_refused(case):
    in_what_is_read(case, FAULT, "cannot be right", "not the range", do="wrong range")


def an_answer_with_everything_instead_of_a_range_is_refused(case):
    in_what_is_read(case, FAULT, "cannot be right", do="ignore range")


def an_object_that_changes_while_it_is_read_is_refused(case):
    case.put("large", steps=[1])
    changed = case.server.fail("GET", "change", part=".h5", skip=1, data=case.bytes("large", 2))
    ended = case.command("copy", PREFIX + "/" + NAME % 1, os.path.join(case.folder, "run"))
    case.says(ended, NONE, "was changed or deleted while it was being read")
    case.check(changed.fired == 1, "it happened")
    case.left_nothing()


def a_transfer_that_always_breaks_is_given_up(case):
    injected, _ = in_what_is_read(case, FAULT, "3 attempts", do="hang up in the body", size="large", skip=1)
    case.check(injected.fired == 3, "bounded", injected.fired)


def an_answer_that_does_not_end_is_cut_off(case):
    in_what_is_read(case, FAULT, "cannot be right", "more of them", do="endless body")


def a_wrong_entity_tag_is_refused(case):
    injected = case.server.fail("PUT", "wrong tag", count=100)
    case.says(case.command("copy", case.file("small", 1), PREFIX), FAULT, "not the MD5 of what was sent")
    case.check(injected.fired == 1, "it happened")


def a_wrong_entity_tag_of_a_part_is_refused(case):
    injected = case.server.fail("PUT", "wrong tag", query="partNumber=2", count=100)
    case.says(case.command("copy", case.file("large", 1), PREFIX), FAULT, "not the MD5 of what was sent", "part 2 of 3")
    case.check(injected.fired == 1 and not case.server.objects, "no object stands")


def a_listing_of_garbage_is_refused(case):
    in_the_listing(case, "cannot be right", do="garbage")


def a_listing_that_is_another_document_is_refused(case):
    in_the_listing(case, "it is no listing", do="garbage", body=b"<html><body>welcome</body></html>")


def a_listing_that_is_cut_is_refused(case):
    in_the_listing(case, "cannot be right", do="cut XML")


def a_listing_with_a_document_type_is_refused(case):
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><ListBucketResult>&c;</ListBucketResult>'
    in_the_listing(case, "document type", do="garbage", body=bomb)


def a_listing_that_lies_too_deep_is_refused(case):
    in_the_listing(case, "too deep", do="garbage", body=b"<a>" * 100000)


def a_listing_that_does_not_end_is_cut_off(case):
    in_the_listing(case, "does not end", do="endless body")


def headers_that_do_not_end_are_cut_off(case):
    in_the_listing(case, "headers do not end", do="endless headers")


def what_is_no_http_is_refused(case):
    in_the_listing(case, "cannot be right", do="no HTTP")


def a_listing_in_a_circle_is_refused(case):
    case.put()
    case.server.page = 1
    injected = case.server.fail("GET", "circle", query="continuation-token", count=100)
    case.says(case.command("ls", PREFIX), FAULT, "circle")
    case.check(injected.fired == 1, "it happened")


if __name__ == "__main__":
    sys.exit(store_case.run_all(sys.modules["__main__"], os.path.abspath(sys.argv[1])))
