"""Compare mathematical expressions in a process of its own: one JSON pair a line in, one 0 or 1 a line out.

Run as a script by reward_models._math. Parsing can take for ever or all memory ("9**9**9**9"), which only another
process survives; and math-verify's own time limit works in the main thread alone.
"""

from __future__ import annotations

import json
import logging
import sys

MEMORY = 4 << 30  # bytes of address space; a comparison that needs more fails


def main() -> None:
    """Answer until the input ends."""
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify

    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            # Between dollars it is read as LaTeX, whole; without, the parser would pick a number out of it.
            read = parse(f"${answer}$", parsing_timeout=None)
            equal = bool(read) and verify(parse(f"${gold}$", parsing_timeout=None), read, timeout_seconds=None)
        except Exception:
            equal = False
        sys.stdout.write(f"{int(equal)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
