"""Rows of the docstring task, written for trying its rewards: a function, and the docstring it deserves."""

from typing import Any

_INSTRUCTION = (
    "Write the one-line docstring of this Python function: one imperative sentence in plain English, "
    "at most 80 characters, ending with a period."
)

_PAIRS = (
    (
        "def count_lines(path):\n    with open(path) as file:\n        return sum(1 for line in file if line.strip())",
        "Return how many lines of the file are not blank.",
    ),
    (
        "def add_listener(self, event, callback):\n    self._listeners.setdefault(event, []).append(callback)",
        "Register a function to be called when the event happens.",
    ),
    (
        "def merge(first, second):\n    merged = dict(first)\n    for key, value in second.items():\n"
        "        merged[key] = merged.get(key, 0) + value\n    return merged",
        "Merge two dictionaries and sum the numbers of the keys that they share.",
    ),
    (
        "def close(self):\n    if self._socket is not None:\n        self._socket.shutdown(SHUT_RDWR)\n"
        "        self._socket.close()\n        self._socket = None",
        "Shut down the connection and close its socket, if there is one.",
    ),
    (
        'def parse_version(text):\n    parts = text.strip().lstrip("v").split(".")\n'
        "    return tuple(int(part) for part in parts)",
        "Convert a version string into a tuple of integers.",
    ),
    (
        "def remove_expired(self, now):\n    old = [key for key, (_, ends) in self._items.items() if ends <= now]\n"
        "    for key in old:\n        del self._items[key]\n    return len(old)",
        "Delete all items past their end and return how many there were.",
    ),
    (
        "def is_palindrome(word):\n    letters = [letter for letter in word.lower() if letter.isalpha()]\n"
        "    return letters == letters[::-1]",
        "Check whether a word reads the same backwards, ignoring case.",
    ),
    (
        "def read_config(path, default=None):\n    try:\n        with open(path) as file:\n"
        "            return json.load(file)\n    except FileNotFoundError:\n        return default",
        "Load the JSON configuration, or give the default if the file is missing.",
    ),
    (
        "def distance(self, other):\n    return math.hypot(self.x - other.x, self.y - other.y)",
        "Compute the straight distance between this point and another one.",
    ),
    (
        "def write_rows(self, rows):\n    for row in rows:\n"
        '        self._stream.write(self.delimiter.join(map(str, row)) + "\\n")\n    self._stream.flush()',
        "Write each row to the stream as one line of separated values.",
    ),
    (
        "def largest_files(folder, limit=10):\n    files = [path for path in folder.rglob('*') if path.is_file()]\n"
        "    files.sort(key=lambda path: path.stat().st_size, reverse=True)\n    return files[:limit]",
        "Find the largest files under a folder, biggest first.",
    ),
    (
        "def retry(function, attempts):\n    for attempt in range(attempts):\n        try:\n"
        "            return function()\n        except OSError:\n"
        "            time.sleep(2 ** attempt)\n    raise TimeoutError",
        "Call the function again after system errors, waiting longer each time.",
    ),
)

EXAMPLES: list[dict[str, Any]] = [
    {
        "prompt": f"{_INSTRUCTION}\n\n```python\n{code}\n```",
        "completion": docstring,
        "reference": docstring,
        "code": code,
    }
    for code, docstring in _PAIRS
]
