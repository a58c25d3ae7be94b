"""Kill the process groups of runs when the worker process that started them is killed.

A parent-death signal reaches a child, but not the children of that child. So each worker process
keeps one small shell, and tells it through a pipe which groups are running. When the pipe closes,
for whatever reason, the shell kills the groups that are left.
"""

from __future__ import annotations

import os
import subprocess
import threading

_SCRIPT = """
trap '' INT TERM HUP QUIT
groups=' '
while read -r word group; do
  case $word in
    watch) groups="$groups$group " ;;
    release) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
"""


class OrphanReaper:
    """One shell per process, started for the first group. Safe to inherit across a fork."""

    def __init__(self) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def watch(self, group: int) -> None:
        """Kill this process group if the calling process dies."""
        self._tell(f"watch {group}\n")

    def release(self, group: int) -> None:
        """Stop watching a group that has ended: another process may soon get its number."""
        self._tell(f"release {group}\n")

    def close(self) -> None:
        """Close the pipe, so that the shell kills the groups it still watches and exits."""
        with self._lock:
            if self._shell is not None and self._shell.stdin is not None:
                self._shell.stdin.close()
                self._shell.wait()
            self._shell = None

    def _tell(self, line: str) -> None:
        with self._lock:
            stdin = self._started().stdin
            if stdin is not None:
                stdin.write(line.encode())

    def _started(self) -> subprocess.Popen[bytes]:
        if self._shell is None or self._owner != os.getpid() or self._shell.poll() is not None:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                bufsize=0,
            )
            self._owner = os.getpid()
        return self._shell
