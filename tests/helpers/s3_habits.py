"""An S3 server on loopback that behaves like stores which aren't Amazon's: `python s3_habits.py PORT`; `GET /habit/NAME` chooses.

none            as moto is
read_only       403 to whatever writes
no_checksums    400 to requests that carry botocore's newer checksums
no_list         403 to listings, and for what isn't there
no_delete       403 to deletions
slow_down       503 to every third request
skewed          403 to everything, for the client's clock
overwrites      a put on condition is put without it
"""

import sys
from io import BytesIO

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

STORE = DomainDispatcherApplication(create_backend_app)
state = {"habit": "none", "requests": 0}


def refuse(status, code, start):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} of a test</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def answer(environ, start):
    path, method, query = environ["PATH_INFO"].strip("/"), environ["REQUEST_METHOD"], environ["QUERY_STRING"]
    if path.startswith("habit/"):
        state["habit"] = path.removeprefix("habit/")
        start("200 OK", [("Content-Length", "0")])
        return [b""]
    habit = state["habit"] if "/" in path or "list-type" in query or method == "POST" else "none"  # a bucket can always be made
    state["requests"] += 1
    if habit == "skewed":
        return refuse("403 Forbidden", "RequestTimeTooSkewed", start)
    if habit == "slow_down" and state["requests"] % 3 == 0:
        return refuse("503 Slow Down", "SlowDown", start)
    newer = "aws-chunked" in environ.get("HTTP_CONTENT_ENCODING", "") or any("CHECKSUM" in name for name in environ)
    if habit == "no_checksums" and newer:
        return refuse("400 Bad Request", "InvalidArgument", start)
    deletes = method == "DELETE" or (method == "POST" and "delete" in query)
    if (habit == "read_only" and (method in ("PUT", "POST") or deletes)) or (habit == "no_delete" and deletes):
        return refuse("403 Forbidden", "AccessDenied", start)
    if habit == "no_list" and method in ("GET", "HEAD"):
        said = []
        body = b"".join(STORE(environ, lambda status, headers, error=None: said.append((status, headers))))
        if "list-type" in query or said[0][0].startswith("404"):
            return refuse("403 Forbidden", "AccessDenied", start)
        start(*said[0])
        return BytesIO(body)
    if habit == "overwrites":
        environ.pop("HTTP_IF_NONE_MATCH", None)
    return STORE(environ, start)


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), answer, threaded=True)
