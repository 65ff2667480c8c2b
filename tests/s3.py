"""A server that speaks S3, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec

_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server, and the environment in which programs find it."""

    port: int

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket(self) -> str:
        """URL of a new folder in a new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        fsspec.filesystem("s3").mkdir(name)
        return f"s3://{name}/studies"

    def check_keys(self, wanted: bool) -> None:
        """Whether keys that nobody gave rights to are refused from now on."""
        urllib.request.urlopen(
            urllib.request.Request(
                f"http://127.0.0.1:{self.port}/moto-api/reset-auth",
                data=b"0" if wanted else b"inf",
                headers={"Content-Type": "text/plain"},
                method="POST",
            )
        ).close()


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """A server on a port, a free one by default; this process finds it, too."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        server = Server(port=int(process.stdout.readline()))
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        try:
            yield server
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            process.kill()
