"""A small S3 server on loopback for tests: it keeps objects in memory, checks every signature by the published
algorithm (and once more with botocore where that is installed), and misbehaves on request. Standard library only.

    server = S3Server(); server.environment() -> variables for a client; server.fail("GET", "status", code=500)
"""

import collections
import datetime
import hashlib
import hmac
import http.server
import socket
import threading
import time
import urllib.parse
import xml.sax.saxutils

try:
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials
except ImportError:
    botocore = None

KEY_ID, SECRET, TOKEN = "TESTKEYIDTESTKEYID00", "s3cret/With+Signs=AndMore0123456789abcdef", "session//token+=" * 8
REGION = "eu-test-1"
EMPTY_HASH = hashlib.sha256(b"").hexdigest()


def encode(text):
    return urllib.parse.quote(text, safe="-._~")


def signature_by_hand(method, raw_path, raw_query, headers, signed, payload_hash, date, region, secret):
    """Signature Version 4 as published, from the secret alone."""
    path = "/".join(encode(urllib.parse.unquote(part)) for part in raw_path.split("/"))
    pairs = sorted((encode(urllib.parse.unquote(name)), encode(urllib.parse.unquote(value)))
                   for name, _, value in (one.partition("=") for one in raw_query.split("&") if one))
    query = "&".join("%s=%s" % pair for pair in pairs)
    lines = "".join("%s:%s\n" % (name, " ".join(headers[name].split())) for name in signed)
    request = "\n".join((method, path, query, lines, ";".join(signed), payload_hash))
    scope = "%s/%s/s3/aws4_request" % (date[:8], region)
    to_sign = "\n".join(("AWS4-HMAC-SHA256", date, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = ("AWS4" + secret).encode()
    for part in (date[:8], region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def signature_by_botocore(method, url, headers, signed, date, region, secret):
    request = botocore.awsrequest.AWSRequest(method=method, url=url,
                                             headers={name: headers[name] for name in signed})
    request.context["timestamp"] = date
    request.context["signing"] = {}
    auth = botocore.auth.S3SigV4Auth(botocore.credentials.Credentials(KEY_ID, secret), "s3", region)
    return auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)


class Rule:
    """A misbehaviour for the next `count` requests that match."""

    def __init__(self, method, do, part="", query="", count=1, skip=0, **how):
        self.method, self.do, self.part, self.query = method, do, part, query
        self.count, self.skip, self.how, self.fired = count, skip, how, 0

    def matches(self, request):
        if request.command != self.method or self.part not in request.key or self.query not in request.raw_query:
            return False
        if self.fired >= self.count:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.fired += 1
        return True


class Upload:
    def __init__(self, bucket, key):
        self.bucket, self.key, self.parts = bucket, key, {}
        self.begun = datetime.datetime.now(datetime.timezone.utc)


class S3Server:
    def __init__(self, bucket="bucket", page=2, conditional=True):
        self.bucket, self.page, self.conditional = bucket, page, conditional
        self.objects, self.uploads, self.rules = {}, collections.OrderedDict(), []
        self.log, self.signatures, self.refused = [], collections.Counter(), []
        self.sent = 0  # bytes of bodies
        self.token = None  # the session token that requests must carry
        self.lock, self.next_upload = threading.RLock(), 0
        handler = type("Bound", (Handler,), {"store": self})
        self.http = QuietServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        self.port = self.http.server_address[1]

    def environment(self, **more):
        found = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION,
                 "AWS_ENDPOINT_URL": "http://127.0.0.1:%d" % self.port, "AWS_MAX_ATTEMPTS": "3",
                 "REKINDLE_STORE_PATIENCE": "1", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null/none"}
        if self.token:
            found["AWS_SESSION_TOKEN"] = self.token
        found.update(more)
        return found

    def put(self, key, data):
        self.objects[key] = (data, '"%s"' % hashlib.md5(data).hexdigest())

    def fail(self, *arguments, **how):
        rule = Rule(*arguments, **how)
        with self.lock:
            self.rules.append(rule)
        return rule

    def count(self, method, query=""):
        with self.lock:
            return sum(one[0] == method and query in one[2] for one in self.log)

    def forget(self):
        with self.lock:
            self.log.clear()
            self.rules.clear()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


class QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # clients that hang up are what some tests are about


def is_loopback_name(host):
    return host.endswith(".localhost")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = None

    def log_message(self, *arguments):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # ---- answers

    def answer(self, code, body=b"", headers=(), length=None):
        with self.store.lock:  # before: who has the answer may end, and the test counts then
            self.store.sent += len(body)
            self.store.log.append((self.command, self.key, self.raw_query, code))
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def xml(self, root, inner, code=200):
        self.answer(code, ('<?xml version="1.0" encoding="UTF-8"?>\n<%s xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                           '%s</%s>' % (root, inner, root)).encode(), [("Content-Type", "application/xml")])

    def error(self, code, name, message="", headers=()):
        if self.command == "HEAD":
            return self.answer(code, b"", headers)
        text = "<Error><Code>%s</Code><Message>%s</Message></Error>" % (name, xml.sax.saxutils.escape(message))
        return self.answer(code, text.encode(), [("Content-Type", "application/xml"), *headers])

    def hang_up(self):
        with self.store.lock:
            self.store.log.append((self.command, self.key, self.raw_query, 0))
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    # ---- one request

    def serve(self):
        raw_path, _, self.raw_query = self.path.partition("?")
        self.raw_path, self.key = raw_path, urllib.parse.unquote(raw_path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host = self.headers["Host"].partition(":")[0]
        if is_loopback_name(host):
            bucket, self.key = host.partition(".")[0], self.key[1:]
        else:
            bucket, _, self.key = self.key[1:].partition("/")
        self.query = dict(urllib.parse.parse_qsl(self.raw_query, keep_blank_values=True))
        with self.store.lock:
            rule = next((one for one in self.store.rules if one.matches(self)), None)
        if rule is not None and self.misbehave_before(rule):
            return
        wrong = self.wrong_signature()
        if wrong:
            with self.store.lock:
                self.store.refused.append(wrong)
            self.error(403, "SignatureDoesNotMatch", wrong)
        elif hashlib.sha256(self.body).hexdigest() != self.headers["x-amz-content-sha256"]:
            self.error(400, "XAmzContentSHA256Mismatch")
        elif bucket != self.store.bucket:
            self.error(404, "NoSuchBucket", "The specified bucket does not exist")
        else:
            self.rule = rule
            with self.store.lock:
                getattr(self, "s3_" + self.command.lower())()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def wrong_signature(self):
        """Why the request is not signed as it must be; empty when it is."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        fields = dict(one.strip().partition("=")[::2] for one in rest.split(","))
        date = headers.get("x-amz-date", "")
        signed = fields.get("SignedHeaders", "").split(";")
        if scheme != "AWS4-HMAC-SHA256" or fields.get("Credential") != \
                "%s/%s/%s/s3/aws4_request" % (KEY_ID, date[:8], REGION):
            return "scheme or scope"
        if abs(datetime.datetime.strptime(date + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp() - time.time()) > 900:
            return "the date"
        must = {"host", "x-amz-date", "x-amz-content-sha256"} | {name for name in headers if name.startswith("x-amz-")}
        if not must <= set(signed) or signed != sorted(signed) or not set(signed) <= set(headers):
            return "the signed headers %s" % signed
        if self.store.token and headers.get("x-amz-security-token") != self.store.token:
            return "the session token"
        expected = signature_by_hand(self.command, self.raw_path, self.raw_query, headers, signed,
                                     headers["x-amz-content-sha256"], date, REGION, SECRET)
        if fields.get("Signature") != expected:
            return "the signature"
        self.store.signatures["by hand"] += 1
        if botocore is not None:
            url = "http://%s%s" % (headers["host"], self.path)
            if signature_by_botocore(self.command, url, headers, signed, date, REGION, SECRET) != expected:
                return "the signature, says botocore"
            self.store.signatures["by botocore"] += 1
        return ""

    # ---- misbehaviour

    def misbehave_before(self, rule):
        """True when that was the answer."""
        if rule.do == "status":
            self.error(rule.how["code"], rule.how.get("name", "InternalError"), rule.how.get("message", "by order"),
                       rule.how.get("headers", ()))
        elif rule.do == "hang up":
            self.hang_up()
        elif rule.do == "slow":
            time.sleep(rule.how["seconds"])
            return False
        elif rule.do == "change":
            self.store.put(self.key, rule.how["data"])
            return False
        elif rule.do == "garbage":
            self.answer(200, rule.how.get("body", b"\x00\xff<not>xml"))
        elif rule.do == "no HTTP":
            self.wfile.write(b"hello, this is no HTTP\r\n\r\n")
            self.hang_up()
        elif rule.do == "endless headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.pour(b"X-More: %s\r\n" % (b"y" * 900))
        elif rule.do == "endless body":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\n\r\n")
            self.pour(b"z" * 65536)
        else:
            return False
        return True

    def pour(self, piece):
        self.store.log.append((self.command, self.key, self.raw_query, 200))
        self.close_connection = True
        try:
            for _ in range(4096):  # 256 MiB: nobody should wait for that
                self.wfile.write(piece)
        except OSError:
            pass

    def ordered(self, what):
        return self.rule is not None and self.rule.do == what

    # ---- operations

    def s3_head(self):
        found = self.store.objects.get(self.key)
        if found is None:
            return self.error(404, "NoSuchKey")
        data, tag = found
        return self.answer(200, b"", [("ETag", tag)], length=len(data))

    def s3_get(self):
        if self.key == "" and "uploads" in self.query:
            return self.list_uploads()
        if self.key == "":
            return self.list_objects()
        if "uploadId" in self.query:
            return self.list_parts()
        found = self.store.objects.get(self.key)
        if found is None:
            return self.error(404, "NoSuchKey", "The specified key does not exist.")
        data, tag = found
        if self.headers.get("if-match", tag) != tag:
            return self.error(412, "PreconditionFailed")
        return self.send_data(data, tag)

    def send_data(self, data, tag):
        first, last, code, headers = 0, len(data) - 1, 200, [("ETag", tag)]
        asked = self.headers.get("range")
        if asked and not self.ordered("ignore range"):
            first, last = (int(one) for one in asked.partition("=")[2].split("-"))
            last, code = min(last, len(data) - 1), 206
            if first > last:
                return self.error(416, "InvalidRange")
            shift = 1 if self.ordered("wrong range") else 0
            headers.append(("Content-Range", "bytes %d-%d/%d" % (first + shift, last + shift, len(data))))
        body = bytearray(data[first:last + 1])
        if self.ordered("corrupt"):
            body[len(body) // 2] ^= 1
        if self.ordered("short"):
            body = body[:-1]
        if self.ordered("hang up in the body"):
            self.send_response(code)
            for header in headers:
                self.send_header(*header)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:len(body) // 2])
            return self.hang_up()
        return self.answer(code, bytes(body), headers)

    def list_objects(self):
        prefix, after = self.query.get("prefix", ""), self.query.get("continuation-token", "")
        after = bytes.fromhex(after).decode() if after else ""
        keys = [key for key in sorted(self.store.objects) if key.startswith(prefix) and key > after and
                "/" not in key[len(prefix):]]
        page, more = keys[:self.store.page], len(keys) > self.store.page
        inner = "".join("<Contents><Key>%s</Key><Size>%d</Size></Contents>" %
                        (xml.sax.saxutils.escape(key), len(self.store.objects[key][0])) for key in page)
        inner += "<IsTruncated>%s</IsTruncated>" % ("true" if more else "false")
        if more:
            last = after if self.ordered("circle") else page[-1]
            inner += "<NextContinuationToken>%s</NextContinuationToken>" % last.encode().hex()
        if self.ordered("cut XML"):
            return self.answer(200, ("<ListBucketResult>" + inner)[:-4].encode())
        return self.xml("ListBucketResult", inner)

    def exists(self):
        """True when a condition forbids to write; then that was answered."""
        if "if-none-match" not in self.headers:
            return False
        if not self.store.conditional:
            self.error(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
            return True
        if self.key in self.store.objects:
            self.error(412, "PreconditionFailed")
            return True
        return False

    def s3_put(self):
        tag = '"%s"' % hashlib.md5(self.body).hexdigest()
        shown = '"%s"' % ("0" * 32) if self.ordered("wrong tag") else tag
        if "uploadId" in self.query:
            upload = self.store.uploads.get(self.query["uploadId"])
            if upload is None:
                return self.error(404, "NoSuchUpload")
            upload.parts[int(self.query["partNumber"])] = (self.body, tag)
        elif self.exists():
            return None
        else:
            self.store.objects[self.key] = (self.body, tag)
        return self.hang_up() if self.ordered("lost") else self.answer(200, b"", [("ETag", shown)])

    def s3_post(self):
        if "uploads" in self.query:
            self.store.next_upload += 1
            name = "upload/%d+=" % self.store.next_upload
            self.store.uploads[name] = Upload(self.store.bucket, self.key)
            return self.xml("InitiateMultipartUploadResult", "<UploadId>%s</UploadId>" % name)
        upload = self.store.uploads.get(self.query["uploadId"])
        if upload is None:
            return self.error(404, "NoSuchUpload")
        if self.ordered("late error"):
            return self.xml("Error", "<Code>InternalError</Code>")
        if self.exists():
            return None
        text = self.body.decode()
        listed = [(int(one.partition("</PartNumber>")[0]), one.partition("<ETag>")[2].partition("</ETag>")[0])
                  for one in text.split("<PartNumber>")[1:]]
        if listed != [(number, upload.parts[number][1]) for number in sorted(upload.parts)]:
            return self.error(400, "InvalidPart")
        data = b"".join(upload.parts[number][0] for number, _ in listed)
        self.store.objects[self.key] = (data, '"%s-%d"' % (hashlib.md5(data).hexdigest(), len(listed)))
        del self.store.uploads[self.query["uploadId"]]
        if self.ordered("lost"):
            return self.hang_up()
        return self.xml("CompleteMultipartUploadResult", "<Key>%s</Key>" % xml.sax.saxutils.escape(self.key))

    def s3_delete(self):
        if "uploadId" in self.query:
            self.store.uploads.pop(self.query["uploadId"], None)
        else:
            self.store.objects.pop(self.key, None)
        return self.answer(204)

    def list_uploads(self):
        found = sorted((upload.key, name, upload.begun) for name, upload in self.store.uploads.items()
                       if upload.key.startswith(self.query.get("prefix", "")))
        after = (self.query.get("key-marker", ""), self.query.get("upload-id-marker", ""))
        found = [one for one in found if one[:2] > after]
        page, more = found[:self.store.page], len(found) > self.store.page
        inner = "".join("<Upload><Key>%s</Key><UploadId>%s</UploadId><Initiated>%s</Initiated></Upload>" %
                        (key, name, begun.strftime("%Y-%m-%dT%H:%M:%S.000Z")) for key, name, begun in page)
        if more:
            inner += "<NextKeyMarker>%s</NextKeyMarker><NextUploadIdMarker>%s</NextUploadIdMarker>" % page[-1][:2]
        return self.xml("ListMultipartUploadsResult", inner + "<IsTruncated>%s</IsTruncated>" % str(more).lower())

    def list_parts(self):
        upload = self.store.uploads.get(self.query["uploadId"])
        if upload is None:
            return self.error(404, "NoSuchUpload")
        numbers = [number for number in sorted(upload.parts) if number > int(self.query.get("part-number-marker", 0))]
        page, more = numbers[:self.store.page], len(numbers) > self.store.page
        inner = "".join("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag><Size>%d</Size></Part>" %
                        (number, upload.parts[number][1], len(upload.parts[number][0])) for number in page)
        if more:
            inner += "<NextPartNumberMarker>%d</NextPartNumberMarker>" % page[-1]
        return self.xml("ListPartsResult", inner + "<IsTruncated>%s</IsTruncated>" % str(more).lower())
