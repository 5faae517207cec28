#!/usr/bin/env python3
"""Gets NVRTC, NVIDIA's compiler as a library, into the user's cache folder, so that `make test` can compile the kernels
of src/native/cu for GPUs on a machine that has none. Nothing else needs it: with a GPU, it comes with torch.

Where it cannot be had (no network, another platform), this says so in a line, and the test that compiles the kernels says
that it skips.
"""

import os
import pathlib
import platform
import sys
import tempfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import libtorch  # noqa: E402  (the script beside this one)

REQUIREMENT = "nvidia-cuda-nvrtc==13.0.88"
TAGS = [f"manylinux_2_{minor}_x86_64" for minor in (12, 17, 24, 28)] + ["manylinux2010_x86_64", "manylinux2014_x86_64"]
SHA256 = "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575"
# The larger `.alt` twins are for a case that is not ours.
KEPT = ("nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc-builtins.so.13.0")


def install(folder):
    """Downloads and unpacks into a temporary sibling, then renames: `folder` is whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading NVRTC into {folder} (90 MB, once)", flush=True)
    with tempfile.TemporaryDirectory(prefix=".nvrtc-", dir=folder.parent) as temporary:
        work = pathlib.Path(temporary)
        wheel = libtorch.download(REQUIREMENT, TAGS, SHA256, work / "wheel")
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name in KEPT or "/licenses/" in name]
            archive.extractall(work / "unpacked", members)
        os.rename(work / "unpacked", folder)


def main():
    folder = libtorch.cache_folder() / "nvrtc"
    if (folder / KEPT[0]).is_file():
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("note: NVRTC is fetched on Linux x86-64 only: the kernels of a GPU are not compiled here")
        return
    try:
        install(folder)
    except (SystemExit, OSError, zipfile.BadZipFile) as error:
        print(f"note: NVRTC could not be fetched, so the kernels of a GPU are not compiled here ({error})")


if __name__ == "__main__":
    main()
