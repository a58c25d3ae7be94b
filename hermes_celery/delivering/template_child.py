"""Render one template in a process of its own; `template` starts it and reads its answer.

A template is untrusted code. Jinja2's sandbox limits what it can reach; only process limits keep it
from running for ever or using all memory. The file is run by its path, so that it imports nothing
of this package. It reads one JSON object from standard input and writes one.
"""

import json
import resource
import sys


def main() -> None:
    """Read a request, and write the answer."""
    request = json.loads(sys.stdin.buffer.read())
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, request["cpu_seconds"]),
        (resource.RLIMIT_AS, request["memory_bytes"]),
    ):
        # The kernel sends SIGXCPU at the soft limit, which shows the cause, and SIGKILL at the hard
        # limit.
        resource.setrlimit(limit, (value, value + (limit == resource.RLIMIT_CPU)))
    sys.path[:] = request["path"]
    try:
        answer = _answer(request)
    except Exception as error:  # noqa: BLE001 - a template may raise any exception
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def _answer(request: dict) -> dict:  # type: ignore[type-arg]  # what JSON holds
    try:
        import jinja2.sandbox  # of the extra `notify`, which may be missing
    except ImportError:
        return {"is_missing": True}
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    if request["values"] is None:
        try:
            environment.parse(request["template"])
        except jinja2.TemplateSyntaxError as error:
            return {"error": f"line {error.lineno}: {error}"[:500]}
        return {"text": ""}
    size, parts, most = 0, [], request["most"]
    for part in environment.from_string(request["template"]).generate(request["values"]):
        size += len(part)
        if size > most:
            return {"error": f"ValueError: it produces more than {most:,} characters"}
        parts.append(part)
    return {"text": "".join(parts)}


if __name__ == "__main__":
    main()
