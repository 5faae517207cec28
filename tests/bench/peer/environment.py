"""The peer's own Python environment: the pinned packages, in the user's cache folder, made on first use."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def cache_folder():
    base = os.environ.get("SHEARLING_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shearling"


def python():
    """The interpreter to run the peer with: $PEER_PYTHON, else that of the environment, installed if it is not there."""
    given = os.environ.get("PEER_PYTHON")
    if given:
        return given
    # Named by its pins: changed pins make a new one.
    pins = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / f"bench-peer-{pins}"
    interpreter = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.is_file():
        print(f"installing {', '.join(REQUIREMENTS.read_text().split())} into {folder}", file=sys.stderr, flush=True)
        try:
            venv.create(folder, with_pip=True, clear=True)
            install = [interpreter, "-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS]
            # stdout is for data.
            subprocess.run(install, check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"error: the peer's environment could not be made ({error}); set PEER_PYTHON to a Python that has it")
        complete.touch()
    return str(interpreter)


if __name__ == "__main__":
    print(python())
