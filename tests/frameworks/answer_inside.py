"""Run inside a jail of the test: start a process line as an agent would, and print what it answers. Standard library only."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time

line, path, host = sys.argv[1:4]
port = int(os.environ["PORT"])
child = subprocess.Popen(["/bin/sh", "-c", f"exec {line}"], start_new_session=True)
until = time.monotonic() + 30
answer = {"status": 0, "body": "it never answered"}
try:
    while time.monotonic() < until and child.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            answer = {"status": response.status, "body": response.read().decode("utf-8", "replace")[:10_000]}
            break
        except OSError:
            time.sleep(0.02)
finally:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    answer["ended"] = child.wait(15)
print("ANSWER " + json.dumps(answer))
