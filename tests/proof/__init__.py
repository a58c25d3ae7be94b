"""The proof that nothing is lost and nothing is started twice.

    history.py    what happened: schedules, records, and the starts that jobs wrote down
    matching.py   which start belongs to which occurrence, where ids do not say so
    checker.py    history in, verdict out: lost, doubled, late, unexpected; a pure function
    crashing.py   Redis connections that kill or freeze their own process at the n-th call, or spoil
                  a key that the call needs
    acts.py       what a child process does until it dies there: a beat's steps, a worker's runs
    zygote.py     forks such children from a warm process, and waits for their end
    every_point.py  meets every point of an act, and judges what is left
    scene.py      one namespace: what happens in it, and what settles and judges it afterwards
    scenes.py     what is set up before: due jobs, runs, deliveries, groups, budgets
    reaching.py   deliveries: far ends that write down what reached them, and the judgement
    sharing.py    groups and budgets: what there must never be too much of
    planted.py    the package with a bug in it; the proof has to notice
    proxy.py      a TCP proxy that cuts connections and swallows bytes
    people.py     who edits, pauses and triggers meanwhile
    soak*.py      beats, workers, faults and edits for minutes; then the checker

Nothing in the package imports this, and it changes nothing there.
"""
