#!/usr/bin/env python3
"""Checks a running server against OpenAI's own schema and with OpenAI's own SDK.

    python3 gateway/tests/conformance/run.py --base-url http://127.0.0.1:8080 --model llama

Needs Python 3.10 and a package index; everything else is installed into a virtual environment in the user's cache.
The last line is `N passed, N failed`; the exit status is 0 if nothing failed.
"""

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent


def environment() -> pathlib.Path:
    """The Python of a virtual environment that has what requirements.txt asks for."""
    requirements = HERE / "requirements.txt"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    root = cache / "kindling" / f"conformance-{key}"
    python = root / "bin" / "python"
    complete = root / "complete"
    if not complete.exists():
        print(f"installing into {root}", file=sys.stderr)
        venv.create(root, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        complete.touch()
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="the server's address, without /v1")
    parser.add_argument("--model", required=True, help="a model that is ready")
    parser.add_argument("--api-key", default="any", help="sent as a bearer token")
    args = parser.parse_args()
    arguments = [args.base_url.rstrip("/"), args.model, args.api_key]
    return subprocess.run([environment(), HERE / "suite.py", *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main())
