"""Checkpoints copied to an object store and back, listed and verified there: what a store that behaves is for.

    copies.py REKINDLE
"""

import datetime
import hashlib
import os
import ssl
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import s3_server  # noqa: E402
import store_case  # noqa: E402
from store_case import NAME, PREFIX  # noqa: E402


def every_request_is_signed_as_two_other_implementations_say(case):
    ended = case.command("copy", case.fixture.runs["large"], "s3://bucket/odd name/a+b=c&d~e")
    case.says(ended, 0, "3 copied, 0 there already, 0 missed")
    case.says(case.command("ls", "s3://bucket/odd name/a+b=c&d~e"), 0, "valid")
    counted = case.server.signatures
    case.check(counted["by hand"] == len(case.server.log) > 20, "all were checked", counted)
    case.check(counted["by botocore"] == counted["by hand"], "by botocore, too (python3-botocore)", counted)


def a_session_token_is_sent_and_signed(case):
    case.server.token = s3_server.TOKEN
    case.says(case.command("copy", case.file("small", 1), PREFIX), 0, "1 copied")
    case.holds(1)


def a_wrong_secret_is_refused_and_named_without_being_shown(case):
    case.expects_refusals = True
    ended = case.command("ls", PREFIX, AWS_SECRET_ACCESS_KEY="not-the-secret-at-all", REKINDLE_LOG="debug")
    case.says(ended, 2, "HTTP 403", "AWS_ACCESS_KEY_ID")
    case.check("not-the-secret" not in ended.output and s3_server.KEY_ID not in ended.output, "no secret", ended)
    case.check(case.server.count("GET") == 1, "a refusal is not repeated", case.server.log)


def credentials_come_from_the_file_and_its_profile(case):
    path = os.path.join(case.folder, "credentials")
    with open(path, "w") as file:
        file.write("# a comment\n[default]\naws_access_key_id = WRONG\naws_secret_access_key = WRONG\n\n"
                   "[ work ]\naws_access_key_id=%s\r\naws_secret_access_key =  %s  \n" %
                   (s3_server.KEY_ID, s3_server.SECRET))
    case.put()
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    case.says(case.command("ls", PREFIX, AWS_SHARED_CREDENTIALS_FILE=path, AWS_PROFILE="work", **nothing), 0, "valid")
    ended = case.command("ls", PREFIX, AWS_SHARED_CREDENTIALS_FILE=path, AWS_PROFILE="play", **nothing)
    case.says(ended, 2, "no credentials", "AWS_ACCESS_KEY_ID", "[play]")


def without_encryption_only_this_machine_is_talked_to(case):
    ended = case.command("ls", PREFIX, AWS_ENDPOINT_URL="http://192.0.2.1:9000")
    case.says(ended, 2, "not encrypted", "REKINDLE_STORE_HTTP")
    case.check(ended.seconds < 2, "at once", ended)
    ended = case.command("ls", PREFIX, AWS_ENDPOINT_URL="http://127.0.0.1.example.org")
    case.says(ended, 2, "not encrypted")
    case.says(case.command("ls", PREFIX, AWS_ENDPOINT_URL="http://user:word@127.0.0.1"), 2, "AWS_ENDPOINT_URL")


def over_https_the_certificate_must_be_trusted(case):
    key, certificate = (os.path.join(case.folder, name) for name in ("key.pem", "certificate.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
                    "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    case.put()
    case.server.http.socket = context.wrap_socket(case.server.http.socket, server_side=True)
    endpoint = "https://localhost:%d" % case.server.port
    ended = case.command("ls", PREFIX, AWS_ENDPOINT_URL=endpoint)
    case.says(ended, 2, "certificate is not trusted", "AWS_CA_BUNDLE")
    case.says(case.command("ls", PREFIX, AWS_ENDPOINT_URL=endpoint, AWS_CA_BUNDLE=certificate), 0, "valid")


def the_bucket_can_stand_in_the_host_name(case):
    case.put()
    ended = case.command("ls", PREFIX, AWS_ENDPOINT_URL="http://localhost:%d" % case.server.port,
                         REKINDLE_STORE_STYLE="virtual")
    case.says(ended, 0, "valid")


def a_copy_there_and_back_is_the_same_bytes(case):
    case.says(case.command("copy", case.fixture.runs["large"], PREFIX), 0, "3 copied")
    case.holds(3, "large")
    back = os.path.join(case.folder, "new-run")
    case.says(case.command("copy", PREFIX + "/", back), 0, "3 copied")
    for step in (1, 2, 3):
        with open(os.path.join(back, "checkpoints", NAME % step), "rb") as file:
            case.check(file.read() == case.bytes("large", step), "step %d" % step)
    single = os.path.join(case.folder, "one.h5")
    case.says(case.command("copy", PREFIX + "/" + NAME % 2, single), 0, "1 copied")
    ended = case.command("diff", single, PREFIX + "/" + NAME % 2)
    case.says(ended, 0, "0 not equal")
    case.says(case.command("diff", PREFIX + "/" + NAME % 2, PREFIX), 1, "different")


def a_second_copy_moves_nothing(case):
    case.command("copy", case.fixture.runs["small"], PREFIX)
    case.server.forget()
    ended = case.command("copy", case.fixture.runs["small"], PREFIX)
    case.says(ended, 0, "0 copied, 3 there already, 0 missed")
    case.check(case.server.count("PUT") == 0, "nothing was put", case.server.log)
    target = os.path.join(case.folder, "run")
    case.says(case.command("copy", PREFIX, target), 0, "3 copied")
    case.says(case.command("copy", PREFIX, target), 0, "0 copied, 3 there already")


def a_name_that_holds_another_state_is_never_replaced(case):
    other = case.bytes("large", 1)
    case.server.put("runs/first/" + NAME % 1, other)
    ended = case.command("copy", case.file("small", 1), PREFIX)
    case.says(ended, 3, "MISSED", "exists with another state", "never replaced")
    case.check(case.object(1) == other, "it is as it was")
    target = os.path.join(case.folder, "one.h5")
    with open(target, "wb") as file:
        file.write(case.bytes("small", 2))
    case.says(case.command("copy", PREFIX + "/" + NAME % 1, target), 3, "MISSED", "another state")
    with open(target, "rb") as file:
        case.check(file.read() == case.bytes("small", 2), "the file is as it was")


def a_writer_that_was_faster_is_not_overwritten(case):
    """The store itself refuses, where it knows conditions: our look before saw nothing."""
    other = case.bytes("large", 1)
    case.server.put("runs/first/" + NAME % 1, other)
    hidden = case.server.fail("HEAD", "status", code=404)
    ended = case.command("copy", case.file("small", 1), PREFIX)
    case.says(ended, 3, "never replaced")
    case.check(hidden.fired == 1 and case.object(1) == other, "it is as it was", ended)


def a_store_without_conditions_serves(case):
    case.says(case.command("copy", case.fixture.runs["small"], PREFIX), 0, "3 copied")
    case.says(case.command("copy", case.file("large", 3), "s3://bucket/large"), 0, "1 copied")
    case.holds(2)


def ls_reads_user_blocks_only_and_says_why_not(case):
    case.put("large")
    for name in ("notes.txt", "g0001-step-1.h5", "deeper/" + NAME % 9):
        case.server.put("runs/first/" + name, b"x" * 100)
    case.server.put("runs/first-not/" + NAME % 8, b"x" * 10000)
    bad = bytearray(case.bytes("large", 2))
    bad[300] ^= 1
    case.server.put("runs/first/" + NAME % 2, bytes(bad))
    case.server.put("runs/first/" + NAME % 4, case.bytes("large", 1))
    case.server.put("runs/first/" + NAME % 5, case.bytes("large", 1)[:-1])
    case.server.put("runs/first/" + NAME % 6, b"short")
    ended = case.command("ls", "--json", PREFIX)
    found = {one["file"]: one for one in case.json(ended)} if case.says(ended, 0) else {}
    case.check(list(found) == [NAME % step for step in (6, 5, 4, 3, 2, 1)], "all pages, newest first", ended)
    reasons = {1: "", 2: "checksum", 3: "", 4: "its name says", 5: "was written with", 6: "inside its user block"}
    for step, reason in reasons.items():
        one = found.get(NAME % step, {})
        case.check(one.get("verdict") == ("damaged" if reason else "valid") and reason in one.get("reason", ""),
                   "step %d" % step, one)
    case.check(case.server.sent < 40000, "only user blocks were sent", case.server.sent)


def show_and_verify_take_addresses(case):
    case.put()
    case.says(case.command("show", PREFIX), 0, "step          3", case.fixture.digests["small"])
    case.says(case.command("show", PREFIX + "/" + NAME % 1), 0, "step          1")
    case.says(case.command("show", PREFIX + "/" + NAME % 7), 3, "there is no s3://bucket/runs/first/" + NAME % 7)
    case.says(case.command("verify", PREFIX), 0, "3 checked, 0 bad")
    bad = bytearray(case.bytes("small", 2))
    bad[-3000] ^= 1
    case.server.put("runs/first/" + NAME % 2, bytes(bad))
    case.says(case.command("ls", PREFIX), 0, "valid")
    ended = case.command("verify", PREFIX, TMPDIR=case.folder)
    case.says(ended, 3, "3 checked, 1 bad", "does not match its digest")
    case.left_nothing()


def a_damaged_object_is_not_copied_in(case):
    bad = bytearray(case.bytes("small", 2))
    bad[-3000] ^= 1
    case.put()
    case.server.put("runs/first/" + NAME % 2, bytes(bad))
    target = os.path.join(case.folder, "run")
    ended = case.command("copy", PREFIX, target)
    case.says(ended, 3, "2 copied, 0 there already, 1 missed", "does not match its digest")
    case.check(sorted(os.listdir(target + "/checkpoints")) == [NAME % 1, NAME % 3], "the good ones alone stand", ended)


def a_damaged_file_is_not_copied_out(case):
    path = os.path.join(case.folder, NAME % 2)
    bad = bytearray(case.bytes("small", 2))
    bad[-3000] ^= 1
    with open(path, "wb") as file:
        file.write(bad)
    case.says(case.command("copy", path, PREFIX), 3, "does not match its digest")
    case.check(not case.server.objects, "nothing was put")


def an_interrupted_upload_goes_on_where_it_was(case):
    broken = case.server.fail("PUT", "hang up", query="partNumber=3", count=3)
    ended = case.command("copy", case.file("large", 2), PREFIX)
    case.says(ended, 1, "put part 3 of 3")
    case.check(broken.fired == 3 and not case.server.objects, "no object yet", ended)
    case.server.forget()
    ended = case.command("copy", "--json", case.file("large", 2), PREFIX)
    case.says(ended, 0)
    case.check(case.json(ended)[0]["parts_found"] == 2, "two parts were there", ended)
    case.check(case.server.count("PUT") == 1, "one was put", case.server.log)
    case.holds(2, "large")


def a_part_that_was_changed_is_sent_again(case):
    case.server.fail("PUT", "hang up", query="partNumber=3", count=3)
    case.command("copy", case.file("large", 2), PREFIX)
    upload = next(iter(case.server.uploads.values()))
    changed = b"x" + upload.parts[1][0][1:]
    upload.parts[1] = (changed, '"%s"' % hashlib.md5(changed).hexdigest())
    case.server.forget()
    case.says(case.command("copy", case.file("large", 2), PREFIX), 0, "1 of 3 parts were there already")
    case.check(case.server.count("PUT") == 2, "two were put", case.server.log)
    case.holds(2, "large")


def stale_uploads_of_the_name_are_dropped_and_others_left(case):
    day = datetime.timedelta(days=2)
    for name, key, age in (("old", NAME % 2, day), ("older", NAME % 2, 2 * day), ("others", NAME % 2 + "x", day),
                           ("new", NAME % 2, day / 100)):
        upload = case.server.uploads[name] = s3_server.Upload("bucket", "runs/first/" + key)
        upload.begun -= age
    case.says(case.command("copy", case.file("large", 2), PREFIX), 0, "1 copied")
    case.holds(2, "large")
    case.check(list(case.server.uploads) == ["others"], "what is left", list(case.server.uploads))


if __name__ == "__main__":
    sys.exit(store_case.run_all(sys.modules["__main__"], os.path.abspath(sys.argv[1]),
                                {"a_store_without_conditions_serves": {"conditional": False},
                                 "an_interrupted_upload_goes_on_where_it_was": {"page": 1}}))
