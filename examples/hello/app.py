"""The smallest app that shows where it runs: one WSGI function, no dependencies, no Procfile."""

import os
from datetime import UTC, datetime


def app(environ, start_response):
    """Say which instance of which release answers, and when."""
    lines = [
        "hello from enjin",
        f"instance  {os.environ.get('ENJIN_INSTANCE', 'unknown')}",
        f"release   {os.environ.get('ENJIN_RELEASE', 'unknown')}",
        f"time      {datetime.now(UTC).isoformat(timespec='milliseconds')}",
    ]
    body = ("\n".join(lines) + "\n").encode()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
