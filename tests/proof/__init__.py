"""The proof that nothing is lost and nothing is started twice.

What happened, and whether it was right:

    history.py               schedules, records, and the starts that jobs wrote down
    history_checker.py       a pure function: history in, verdict out (lost, doubled, late ...)
    start_matching.py        which start belongs to which occurrence, where ids do not say so
    delivery_receipts.py     far ends that write down which deliveries reached them
    limits_check.py          groups and budgets: what there must never be too much of

A process that dies, or freezes, at each call that it makes:

    crashing_connections.py  connections that kill or freeze their own process at the n-th call, or
                             spoil a key that the call needs
    crash_child.py           what a child does until it dies there: a beat's steps, a worker's runs
    crash_child_celery.py    the same for a real Celery worker
    fork_server.py           forks such children from a warm process, and waits for their end
    crash_scene.py           one namespace: what happens in it, what settles it, what judges it
    crash_scene_setups.py    what is set up before: due jobs, runs, deliveries, groups, budgets
    every_crash_point.py     every point of an act, one scene each
    crash_fixtures.py        the fixtures of tests that do this
    known_bugs.py            the package with a bug in it; the proof has to notice

Everything at once, for minutes:

    soak.py                  our own app: beats, workers, faults and edits; then the checker
    soak_processes.py        the beats and workers of that soak
    soak_faults.py           what it does to the store itself
    project_soak.py          a Celery project's own tasks, under Celery's own commands
    soak_disturbances.py     kill, freeze, restart: what both soaks do to processes and server
    soak_verdict.py          did every job that should run go on until the end?
    concurrent_editors.py    people who edit, pause and trigger meanwhile
    faulty_proxy.py          a TCP proxy that cuts connections and swallows bytes

Nothing in the package imports this, and it changes nothing there.
"""
