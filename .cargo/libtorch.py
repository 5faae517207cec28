#!/usr/bin/env python3
"""Gets libtorch 2.11.0 for this checkout and links it as `.libtorch`.

`.cargo/config.toml` points LIBTORCH at that link, so after one run of this script (both `make demo`
and `make test` run it first) plain cargo commands need no exported variable. In order of preference:

1. the folder in $LIBTORCH (a libtorch or a Python `torch` folder the user already has),
2. a `torch` package of the right version in the python3 that runs this script,
3. a private copy in the user's cache folder, taken from the PyPI wheel with pip.

The Linux wheel is the CUDA build: its CPU library needs two small CUDA runtime libraries, so those
wheels are fetched as well, and the CUDA-only libraries are left out of the unpacked copy. To train on
a GPU, install `torch==2.11.0` with pip or set LIBTORCH; this script then uses that one.
Every failure is one sentence that names the fix.
"""

import hashlib
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

VERSION = "2.11.0"
ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = ROOT / ".libtorch"
GIB = 1 << 30
NEEDED_BYTES = 2 * GIB

# (requirement, wheel platform tags, sha256) of every wheel a platform needs.
LINUX_TAGS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 25, 26, 27, 28)] + ["manylinux2014_x86_64"]
WHEELS = {
    ("Linux", "x86_64"): [
        (f"torch=={VERSION}", LINUX_TAGS, "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"),
        ("nvidia-cuda-runtime==13.0.96", LINUX_TAGS, "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"),
        ("nvidia-cuda-cupti==13.0.85", LINUX_TAGS, "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"),
    ],
    ("Darwin", "arm64"): [
        (f"torch=={VERSION}", ["macosx_11_0_arm64", "macosx_14_0_arm64"], "7b6a60d48062809f58595509c524b88e6ddec3ebe25833d6462eeab81e5f2ce4"),
    ],
}
LEFT_OUT = re.compile(r"torch/lib/lib(torch_cuda|torch_nvshmem|torch_python|c10_cuda|shm|torch_cuda_linalg)[^/]*$")
KEPT = re.compile(r"(torch/(lib|include)/|torch/version\.py$|torch[^/]*\.dist-info/licenses/|nvidia/.*/lib/)")


def fail(sentence):
    sys.exit(f"error: {sentence}")


def version_of(folder):
    """Version of the libtorch in `folder` without loading it, or None when it is not a libtorch."""
    if not (folder / "include").is_dir() or not (folder / "lib").is_dir():
        return None
    build_version = folder / "build-version"
    if build_version.is_file():
        return build_version.read_text().strip().split("+")[0]
    version_py = folder / "version.py"
    if version_py.is_file():
        found = re.search(r"__version__ = '([^'+]+)", version_py.read_text())
        return found.group(1) if found else None
    return None


def from_environment():
    named = os.environ.get("LIBTORCH")
    if not named:
        return None
    folder = pathlib.Path(named).expanduser().resolve()
    if folder == LINK.resolve() and not folder.exists():
        return None
    found = version_of(folder)
    if found is None:
        fail(f"LIBTORCH={named} is not a libtorch folder (no include/, lib/ and version in it); point it at a libtorch {VERSION} or unset it.")
    if found != VERSION:
        fail(f"LIBTORCH={named} is libtorch {found}, but tch 0.24 needs exactly {VERSION}; point it at that version or unset it to download one.")
    return folder


def from_python():
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = pathlib.Path(list(spec.submodule_search_locations)[0]).resolve()
    found = version_of(folder)
    if found == VERSION:
        return folder
    print(f"note: python3 has torch {found} at {folder}; {VERSION} is needed, so a private copy is used.")
    return None


def cache_folder():
    base = os.environ.get("SHEARLING_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "shearling"
    )
    return pathlib.Path(base)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download(requirement, tags, expected, into):
    """Fetches one wheel with pip, whatever Python runs this, and checks its hash."""
    into.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none"]
    command += [word for tag in tags for word in ("--platform", tag)]
    command += ["--dest", str(into), requirement]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        fail(f"pip could not download {requirement} (its message is above); check the network or pip's index settings and run this again, or set LIBTORCH to a libtorch {VERSION}.")
    wheels = list(into.glob("*.whl"))
    if len(wheels) != 1:
        fail(f"pip left {len(wheels)} wheels for {requirement} in {into}, expected one; run this again.")
    found = sha256(wheels[0])
    if found != expected:
        fail(f"the download of {requirement} is broken (sha256 {found}, expected {expected}); run this again, or set LIBTORCH to a libtorch {VERSION}.")
    return wheels[0]


def unpack(wheel, into):
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if KEPT.match(name) and not LEFT_OUT.match(name)]
        archive.extractall(into, members)


def install(folder):
    """Downloads and unpacks into a temporary sibling, then renames: `folder` is whole or absent."""
    key = (platform.system(), platform.machine())
    if key not in WHEELS:
        fail(f"there is no pinned libtorch for {key[0]} on {key[1]}; install torch=={VERSION} with pip, or set LIBTORCH to a libtorch {VERSION}.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < NEEDED_BYTES:
            fail(f"{folder.parent} has {free / GIB:.1f} GiB free, and libtorch needs {NEEDED_BYTES / GIB:.0f} GiB to download and unpack; free some space or set SHEARLING_CACHE to another disk.")
        print(f"downloading libtorch {VERSION} into {folder} (about 550 MB, once)", flush=True)
        with tempfile.TemporaryDirectory(prefix=".libtorch-", dir=folder.parent) as temporary:
            work = pathlib.Path(temporary)
            for number, (requirement, tags, expected) in enumerate(WHEELS[key]):
                wheel = download(requirement, tags, expected, work / f"wheel-{number}")
                unpack(wheel, work / "unpacked")
                wheel.unlink()
            (work / "unpacked" / "torch" / "build-version").write_text(VERSION + "\n")
            try:
                os.rename(work / "unpacked", folder)
            except OSError:
                # Another run finished first; its copy is as good.
                if version_of(folder / "torch") != VERSION:
                    raise
    except (OSError, zipfile.BadZipFile) as error:
        fail(f"libtorch could not be unpacked into {folder}: {error}; check space and permissions there, or set SHEARLING_CACHE to another folder.")


def from_cache():
    folder = cache_folder() / f"libtorch-{VERSION}"
    if version_of(folder / "torch") != VERSION:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        install(folder)
    return folder / "torch"


def link(folder):
    if LINK.is_symlink() and LINK.resolve() == folder:
        return
    if LINK.is_symlink() or LINK.is_file():
        LINK.unlink()
    elif LINK.exists():
        fail(f"{LINK} exists and is not a link; remove it and run this again.")
    LINK.symlink_to(folder, target_is_directory=True)


def main():
    folder = from_environment() or from_python() or from_cache()
    link(folder)
    print(f"libtorch {VERSION}: {folder}")


if __name__ == "__main__":
    main()
