"""Fills in one template in a process of its own; `template` starts it and reads its answer.

A template is somebody else's program: Jinja2's sandbox keeps it from reaching out, and nothing but
the limits of a process keeps it from never ending or from eating the memory. Run by its path, so
that nothing of this package is imported; one JSON object comes by standard input, one goes out.
"""

import json
import resource
import sys


def main() -> None:
    """Read a request, answer it."""
    request = json.loads(sys.stdin.buffer.read())
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, request["cpu_seconds"]),
        (resource.RLIMIT_AS, request["memory_bytes"]),
    ):
        # At the first of the two the kernel says why (SIGXCPU), at the second it kills.
        resource.setrlimit(limit, (value, value + (limit == resource.RLIMIT_CPU)))
    sys.path[:] = request["path"]
    try:
        answer = _answer(request)
    except Exception as error:  # noqa: BLE001 - a template may raise whatever it likes
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
