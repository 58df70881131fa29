"""Namespaces of a worker (once) and of a sample (each time): no network, no foreign processes, hardly any files."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable, Sequence

from reward_models.sandbox import _linux
from reward_models.sandbox._settings import FOLDER, INNER_USER

_HIDDEN = ("site-packages", "dist-packages")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def enter_namespaces() -> None:
    """Put this process into new namespaces; the next one that it starts is the first of a new process namespace.

    Root is given a second user, under which the samples run; others keep their own, who is nobody to the outside.

    Raises:
        OSError: the kernel, or what guards it, does not allow it.
    """
    _linux.machine_index()
    user, group, root = os.geteuid(), os.getegid(), os.geteuid() == 0
    ready, go = os.pipe()
    done, tell = os.pipe()
    helper = os.fork()
    if helper == 0:  # who has left for a user namespace may not write this map of two users any more
        code = 1
        try:
            os.close(go)
            os.close(done)
            if os.read(ready, 1):
                _write_maps(os.getppid(), user, group, root)
                os.write(tell, b"y")
                code = 0
        except OSError as error:
            os.write(tell, f"n{error}".encode())
        finally:
            os._exit(code)
    os.close(ready)
    os.close(tell)
    kinds = ("USER", "NS", "PID", "NET", "IPC", "UTS", "CGROUP")
    try:
        _linux.unshare(sum(getattr(_linux, f"CLONE_NEW{kind}") for kind in kinds))
        os.write(go, b"g")
    finally:
        os.close(go)
        answer = os.read(done, 1000)
        os.close(done)
        os.waitpid(helper, 0)
    if answer != b"y":
        raise OSError(f"the user namespace gets no users: {answer[1:].decode()}")


def _write_maps(process: int, user: int, group: int, root: bool) -> None:
    if root:
        # A user whom no file and no other process belongs to; containers often have 65,536 users, few of them in use.
        outer = random.SystemRandom().randrange(52_000, 60_000)
        try:
            for kind in ("uid", "gid"):
                _write(f"/proc/{process}/{kind}_map", f"0 0 1\n{INNER_USER} {outer} 1\n")
            return
        except OSError:
            pass  # a container whose root has no other users
    _write(f"/proc/{process}/setgroups", "deny")
    _write(f"/proc/{process}/uid_map", f"{INNER_USER} {user} 1\n")
    _write(f"/proc/{process}/gid_map", f"{INNER_USER} {group} 1\n")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def library_folders() -> list[str]:
    """Folders of Python's standard library, and time zones."""
    library = [folder for folder in sys.path if os.path.isdir(folder) and "python" in folder]
    kept = [folder for folder in library if not any(folder != other and _within(folder, other) for other in library)]
    return [*kept, *(zones for zones in ("/usr/share/zoneinfo",) if os.path.isdir(zones))]


def hidden_folders(folders: Iterable[str]) -> list[str]:
    """Folders of installed packages in the standard library's own."""
    inside = (os.path.join(folder, name) for folder in folders for name in _HIDDEN)
    return [folder for folder in inside if os.path.isdir(folder)]


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def build_root(readable: Sequence[str]) -> None:
    """Leave for a root folder in memory that has the standard library, four devices, and what is named; all read-only.

    Args:
        readable: further files and folders to show at their own paths.
    """
    library = library_folders()
    hidden = [folder for folder in hidden_folders(library) if folder not in readable]
    shown = [(path, os.path.realpath(path), os.path.isdir(path)) for path in [*library, *_DEVICES, *readable]]
    _linux.mount("none", "/", flags=_linux.MS_REC | _linux.MS_PRIVATE)
    base = "/tmp" if os.path.isdir("/tmp") else "/mnt"
    flags = _linux.MS_NOSUID | _linux.MS_NODEV
    _linux.mount("tmpfs", base, "tmpfs", flags, "mode=0755,size=1m")
    os.makedirs(f"{base}/old")
    os.makedirs(f"{base}/new")
    _linux.pivot_root(base, f"{base}/old")
    os.chdir("/")
    _linux.mount("tmpfs", "/new", "tmpfs", flags, "mode=0755,size=1m")
    for number, (path, source, is_folder) in enumerate(shown):
        if number == len(library):
            for folder in hidden:
                _linux.mount("tmpfs", f"/new{folder}", "tmpfs", flags, "mode=0755,size=64k")
        _show(f"/old{source}", f"/new{path}", is_folder)
    for place in (FOLDER, "/.old"):
        os.makedirs(f"/new{place}", exist_ok=True)
    _linux.pivot_root("/new", "/new/.old")
    os.chdir("/")
    _linux.unmount("/.old")
    os.rmdir("/.old")
    for place in (*hidden, "/"):
        _linux.mount("none", place, flags=_linux.MS_REMOUNT | _linux.MS_BIND | _linux.MS_RDONLY | flags)


def _show(source: str, target: str, is_folder: bool) -> None:
    os.makedirs(target if is_folder else os.path.dirname(target), exist_ok=True)
    if not is_folder:
        os.close(os.open(target, os.O_CREAT | os.O_RDONLY, 0o444))
    _linux.bind_read_only(source, target)


def enter_sample(disk: int) -> None:
    """Give this process, the first of its process namespace, an empty folder to work in, and an unprivileged user."""
    _linux.unshare(_linux.CLONE_NEWNS)
    own = os.geteuid()
    options = f"mode=0700,size={disk},nr_inodes=1024,uid={INNER_USER},gid={INNER_USER}"
    _linux.mount("tmpfs", FOLDER, "tmpfs", _linux.MS_NOSUID | _linux.MS_NODEV, options)
    os.chdir(FOLDER)
    if own != INNER_USER:
        os.setgroups([])
        os.setresgid(INNER_USER, INNER_USER, INNER_USER)
        os.setresuid(INNER_USER, INNER_USER, INNER_USER)
