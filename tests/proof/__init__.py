"""The proof that no occurrence is lost and none is started twice.

Record and judge what happened:

    history.py               values: schedules, records, and the starts that jobs wrote down
    history_checker.py       a pure function: history in, verdict out (lost, doubled, late ...)
    start_matching.py        assigns starts to occurrences in histories without run ids
    delivery_receipts.py     targets that write down which deliveries reached them
    limits_check.py          finds overfull groups and wrongly booked token budgets

Kill or freeze a process at each call that it makes:

    crashing_connections.py  connections that kill or freeze their own process at the n-th call, or
                             spoil a key that the call needs
    crash_child.py           the work of a child until it dies: a beat's steps, a worker's runs
    crash_child_celery.py    the same for a real Celery worker
    fork_server.py           forks such children from a warm process, and waits for their end
    crash_scene.py           one namespace: sets it up, settles it, judges it
    crash_scene_setups.py    the starting states: due jobs, runs, deliveries, groups, budgets
    every_crash_point.py     visits every point of an act, one scene each
    crash_fixtures.py        pytest fixtures for these tests
    known_bugs.py            the package with a planted bug, which the proof has to notice

Disturb everything at once, for minutes:

    soak.py                  our own app: beats, workers, faults and edits; then the checker
    soak_processes.py        the beats and workers of that soak
    soak_faults.py           damages stored keys and pushes malformed messages
    project_soak.py          a Celery project's own tasks, under Celery's own commands
    soak_disturbances.py     kills, freezes and restarts processes and server, for both soaks
    soak_verdict.py          finds jobs that silently stopped
    concurrent_editors.py    people who edit, pause and trigger jobs meanwhile
    faulty_proxy.py          a TCP proxy that cuts connections and swallows bytes

The package does not import this folder, and this folder changes nothing in the package.
"""
