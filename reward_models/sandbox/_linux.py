"""The few system calls that Python does not wrap, and the filter of system calls, for Linux on x86-64 and ARM64."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
ALL_NAMESPACES = 0x7E020000
CLONE_THREAD = 0x00010000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_MOUNT_SETATTR = 442  # the same number on every architecture, like all system calls since Linux 5.1
_AT_RECURSIVE, _MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 0x8000, 1, 2, 4

_PIVOT_ROOT, _CAPSET = (155, 41), (126, 91)

# Architecture in the filter's words, then numbers of the system calls that are refused (kernel tables).
_X86_64 = 0xC000003E
_AARCH64 = 0xC00000B7
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # name: (x86-64, ARM64), None where the architecture lacks it
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": _PIVOT_ROOT,
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "iopl": (172, None),
    "ioperm": (173, None),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
    "set_mempolicy": (238, 237),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
_FORK, _CLONE, _CLONE3 = (57, None), (56, 220), (435, 435)
_PRLIMIT64, _SOCKETPAIR = (302, 261), (53, 199)
_AF_UNIX = 1

_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; both machines are little-endian

_libc = ctypes.CDLL(None, use_errno=True)


def machine_index() -> int:
    """Column of this machine in the tables of system calls.

    Raises:
        OSError: there is no table for it.
    """
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        return 0
    if machine in ("aarch64", "arm64"):
        return 1
    raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave some namespaces for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace that a descriptor stands for."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount a file system."""
    words = [text.encode() if text else None for text in (source, target, kind)]
    option = options.encode() if options else None
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), option), f"mount {target}")


def bind_read_only(source: str, target: str) -> None:
    """Show a folder or file at another place, read-only with all that is mounted below it (Linux 5.12)."""
    mount(source, target, flags=MS_BIND | MS_REC)
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    code = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(-1),
        target.encode(),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    _checked(code, f"mount_setattr {target}")


def unmount(target: str) -> None:
    """Take a file system away now, though something may still use it."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root folder and show the former one at `old`."""
    number = _PIVOT_ROOT[machine_index()]
    _checked(_libc.syscall(ctypes.c_long(number), new.encode(), old.encode()), "pivot_root")


def die_with_parent(signal_number: int) -> None:
    """Have a signal sent to this process when the thread that started it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def give_up_privileges() -> None:
    """Drop every capability, now and for later programs, and hide the memory from processes of the same user."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # no such capability, or none may be dropped since none is held
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _checked(_libc.syscall(ctypes.c_long(_CAPSET[machine_index()]), header, none), "capset")
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def _instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, constant)


def filter_program(allow_processes: bool, machine: int) -> bytes:
    """Build the filter of system calls.

    Args:
        allow_processes: whether new processes, and not only threads, may be started.
        machine: column in the tables, see `machine_index`.

    Returns:
        A program for seccomp: a refused call fails with EPERM, a call of another architecture kills.
    """
    refuse = _instruction(_RETURN, _RET_ERRNO | errno.EPERM)
    allow = _instruction(_RETURN, _RET_ALLOW)
    load_argument = _instruction(_LOAD, _FIRST_ARGUMENT)
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, (_X86_64, _AARCH64)[machine], 1, 0),
        _instruction(_RETURN, _RET_KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == 0:  # the x32 calls have numbers of their own
        program += [_instruction(_JUMP_GREATER_EQUAL, 0x40000000, 0, 1), refuse]

    def on(numbers: tuple[int | None, int | None], actions: list[bytes]) -> None:
        number = numbers[machine]
        if number is not None:
            program.extend([_instruction(_JUMP_EQUAL, number, 0, len(actions)), *actions])

    for numbers in _DENIED.values():
        on(numbers, [refuse])
    # glibc falls back on clone, whose flags a filter can read.
    on(_CLONE3, [_instruction(_RETURN, _RET_ERRNO | errno.ENOSYS)])
    on(_SOCKETPAIR, [load_argument, _instruction(_JUMP_EQUAL, _AF_UNIX, 1, 0), refuse, allow])
    on(_PRLIMIT64, [load_argument, _instruction(_JUMP_EQUAL, 0, 1, 0), refuse, allow])
    no_namespaces = [load_argument, _instruction(_JUMP_SET, ALL_NAMESPACES, 0, 1), refuse]
    if allow_processes:
        on(_CLONE, [*no_namespaces, allow])
    else:
        on(_FORK, [refuse])
        on(_CLONE, [*no_namespaces, _instruction(_JUMP_SET, CLONE_THREAD, 1, 0), refuse, allow])
    program.append(allow)
    return b"".join(program)


def install_filter(allow_processes: bool) -> None:
    """Refuse from here on, to this thread and all that it starts, the system calls that no exercise needs."""
    program = filter_program(allow_processes, machine_index())
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog, padded by struct as C does
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0), "seccomp")
