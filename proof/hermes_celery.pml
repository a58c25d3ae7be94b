/* Lease, advance, claim, heartbeat, finish and rescue, with everything going wrong.
 *
 * Each Lua script is one atomic step here, as it is on the server; between any two steps of a
 * process anything may happen: it is killed, its lease or its heartbeat runs out while it is frozen
 * (it is simply not scheduled for a while), a message vanishes or arrives twice. With ERRORS a script
 * may also fail on the server, which keeps what it has written by then. What is not modelled: the
 * schedule's arithmetic, policies of overlap and catch-up, edits.
 *
 * Checked by ./check.sh, which also checks that each mutant below is caught:
 *     NO_FENCE         the scripts of a tick do not compare the term
 *     NO_CLAIM         a worker runs whatever message it gets
 *     SPLIT            the schedule moves in one step, record and message are written in another
 *     NO_CLAIM_TOKEN   whoever comes back may finish a run that was given up
 *     NO_REDELIVERY    nobody pushes a vanished message again
 *     NO_LOSING        nobody gives up a run whose worker died
 *     ONE_PHASE        scripts check each key when they come to it, and may fail between two writes
 *     NO_MEND_QUEUED, NO_MEND_RUNNING, NO_MEND_ACTIVE   one kind that RECONCILE forgets
 * RETRY is `on_lost: retry`; without it a run that is lost stays lost. RECONCILE is the part of rescue
 * that compares what must agree; with it a job runs again even after a script of one phase failed.
 */

#ifndef BEATS
#define BEATS 2
#endif
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef OCCURRENCES
#define OCCURRENCES 2
#endif
/* How often each thing goes wrong, in all. */
#ifndef BEAT_CRASHES
#define BEAT_CRASHES 1
#endif
#ifndef WORKER_CRASHES
#define WORKER_CRASHES 1
#endif
#ifndef FREEZES
#define FREEZES 1
#endif
#ifndef SILENCES
#define SILENCES 1
#endif
#ifndef VANISHED
#define VANISHED 1
#endif
#ifndef ERRORS
#define ERRORS 0
#endif
#define ATTEMPTS 2
#define COPIES 2
#define NOBODY 255

mtype = { none, queued, running, succeeded, lost };

/* The store. */
byte lease = NOBODY;             /* who leads; expires */
byte term = 0;                   /* the fencing token: only rises */
byte next_due = 0;               /* the schedule: occurrences before it have been dispatched */
mtype state[OCCURRENCES] = none; /* the record of each occurrence's run */
byte claim[OCCURRENCES] = 0;     /* whose finish counts; 0: nobody's */
byte attempt[OCCURRENCES] = 0;   /* further ones after the first */
bool counted[OCCURRENCES];        /* in the job's active runs: its next occurrence waits or is skipped */
bool indexed[OCCURRENCES];       /* in the index of queued runs, where redeliver finds it */
bool watched[OCCURRENCES];       /* in the index of heartbeats, where lose finds it */
bool beating[OCCURRENCES];       /* its heartbeat has not run out */
byte messages[OCCURRENCES] = 0;  /* copies on the Celery queue */

/* The world outside. */
byte leading[BEATS] = 0;         /* the term that a beat believes in; 0: it stands by or is dead */
bool performed[OCCURRENCES];     /* the worker with the claim lives and is at it */
byte starts[OCCURRENCES] = 0;    /* of the present attempt */
byte beat_crashes = 0, worker_crashes = 0, freezes = 0, silences = 0, vanished = 0, errors = 0;

#define final(o) (state[o] == succeeded || state[o] == lost)

#ifdef NO_FENCE
#define fenced(b) false
#else
#define fenced(b) (leading[b] != term)
#endif

/* A script that fails: its caller goes on at `back`. With two phases all that can fail comes before
 * the first write; with one, each further write can.
 *     checked(back, first; then(back, second))
 */
#define failed(back) errors < ERRORS -> errors++; goto back
#ifdef ONE_PHASE
#define checked(back, writes) writes
#define then(back, writes) if :: failed(back) :: writes fi
#else
#define checked(back, writes) if :: failed(back) :: writes fi
#define then(back, writes) writes
#endif

/* kill -9, instead of the step that is one choice with it */
#define killed(b) beat_crashes < BEAT_CRASHES -> beat_crashes++; leading[b] = 0; goto standby
#define stopped(b) fenced(b) -> leading[b] = 0; goto standby

/* advance.lua: fence, compare with what was planned, move on, record, push. */
#ifdef SPLIT
inline advance(b, seen) {
    atomic {
        if
        :: killed(b)
        :: stopped(b)
        :: !fenced(b) && next_due != seen -> goto tick
        :: !fenced(b) && next_due == seen -> next_due++
        fi
    }
    /* killed here, as celery beat and RedBeat can be, the occurrence is gone */
    atomic {
        if
        :: killed(b)
        :: state[seen] = queued; counted[seen] = true; indexed[seen] = true; messages[seen]++
        fi
    }
}
#else
inline advance(b, seen) {
    atomic {
        if
        :: killed(b)
        :: stopped(b)
        :: !fenced(b) ->
            assert(leading[b] == term);
            if
            :: next_due != seen -> skip                               /* moved */
            :: next_due == seen && state[seen] != none -> next_due++  /* ran */
            :: next_due == seen && state[seen] == none ->             /* ok */
                checked(tick, next_due++;
                    then(tick, state[seen] = queued;
                        then(tick, counted[seen] = true;
                            then(tick, indexed[seen] = true;
                                then(tick, messages[seen]++)))))
            fi
        fi
    }
}
#endif

/* redeliver.lua: fence, still queued, push once more; in any state of the queue, so it also doubles
 * messages that did not vanish. */
#ifdef NO_REDELIVERY
#define overdue(o) false
#else
#define overdue(o) (state[o] == queued && indexed[o] && messages[o] < COPIES)
#endif
#define redeliver(o) overdue(o) -> assert(leading[b] == term); messages[o]++

/* lose.lua: fence, the heartbeat ran out, give up or put back in line. */
#ifdef NO_LOSING
#define silent(o) false
#else
#define silent(o) (state[o] == running && watched[o] && !beating[o])
#endif
#define gives_up(o) state[o] = lost; then(tick, counted[o] = false)
#ifdef RETRY
#define again(o) \
    if \
    :: attempt[o] < ATTEMPTS - 1 -> \
        attempt[o]++; starts[o] = 0; state[o] = queued; then(tick, indexed[o] = true) \
    :: else -> gives_up(o) \
    fi
#else
#define again(o) gives_up(o)
#endif
#define lose(o) silent(o) -> assert(leading[b] == term); \
    checked(tick, watched[o] = false; \
        then(tick, claim[o] = 0; beating[o] = false; performed[o] = false; again(o)))

/* Reconciliation: what does not agree with the record of the run is put right, each in a script of
 * its own. What has no record at all cannot be found. */
#ifndef RECONCILE
#define NO_MEND_QUEUED
#define NO_MEND_RUNNING
#define NO_MEND_ACTIVE
#endif
#ifdef NO_MEND_QUEUED
#define unindexed(o) false
#else
#define unindexed(o) (state[o] == queued && !indexed[o])
#endif
#ifdef NO_MEND_RUNNING
#define unwatched(o) false
#else
#define unwatched(o) (state[o] == running && !watched[o])
#endif
#ifdef NO_MEND_ACTIVE
#define ghost(o) false
#else
#define ghost(o) (counted[o] && state[o] != queued && state[o] != running)
#endif
#define astray(o) (unindexed(o) || unwatched(o) || ghost(o))
#define mend(o) astray(o) -> assert(leading[b] == term); \
    if \
    :: unindexed(o) -> indexed[o] = true; counted[o] = true \
    :: unwatched(o) -> watched[o] = true; counted[o] = true \
    :: ghost(o) -> counted[o] = false \
    fi

proctype Beat(byte b) {
    byte seen = 0;
standby:
    /* lease_take.lua: nobody leads, so the term rises and this beat leads it */
    atomic { seen = 0; lease == NOBODY -> lease = b; term++; leading[b] = term }
tick:
    /* No occurrence without a record, once the tick is over that moved the schedule past it. */
    assert(next_due == 0 || state[next_due - 1] != none);
    /* lease_renew.lua, then the reads of a tick */
    atomic {
        seen = 0;
        if
        :: killed(b)
        :: lease == b && leading[b] == term -> seen = next_due
        :: !(lease == b && leading[b] == term) -> leading[b] = 0; goto standby
        fi
    }
    if
    :: seen < OCCURRENCES -> advance(b, seen)
    :: seen == OCCURRENCES || overdue(0) || silent(0) || astray(0) ->
        /* rescue: one run at a time, each a script of its own */
        atomic {
            if
            :: killed(b)
            :: stopped(b)
            :: !fenced(b) ->
                if
                :: redeliver(0)
                :: redeliver(OCCURRENCES - 1)
                :: lose(0)
                :: lose(OCCURRENCES - 1)
                :: mend(0)
                :: mend(OCCURRENCES - 1)
                :: else
                fi
            fi
        }
    fi;
    goto tick
}

/* kill -9 of a worker, instead of the step that is one choice with it */
#define worker_killed worker_crashes < WORKER_CRASHES -> \
    worker_crashes++; performed[o] = performed[o] && claim[o] != me; goto idle

proctype Worker(byte me) {
    byte o = 0;
idle:
end:
    /* Celery's BRPOP: early acknowledgement, so the message is gone from now on */
    atomic {
        o = 0;
        if
        :: messages[0] > 0 -> o = 0
        :: messages[OCCURRENCES - 1] > 0 -> o = OCCURRENCES - 1
        fi;
        messages[o]--
    }
    /* claim.lua */
    atomic {
        if
        :: worker_killed
#ifdef NO_CLAIM
        :: state[o] != none ->
#else
        :: state[o] == queued ->
#endif
            checked(idle, indexed[o] = false;
                then(idle, claim[o] = me; state[o] = running;
                    then(idle, watched[o] = true; beating[o] = true; performed[o] = true)))
        :: state[o] != queued -> goto idle                  /* taken, or gone */
        fi
    }
    /* The job starts. A start counts for the attempt it was claimed in: one that comes after its
     * claim was given up is not counted for the next attempt. */
    atomic {
        if
        :: worker_killed
        :: claim[o] == me -> starts[o]++; assert(starts[o] == 1)
        :: claim[o] != me
        fi
    }
performing:
    do
    :: atomic {                                             /* heartbeat.lua */
        state[o] == running && claim[o] == me && !(beating[o] && watched[o]) ->
            beating[o] = true; watched[o] = true
        }
    :: atomic {                                             /* finish.lua */
        if
        :: worker_killed
#ifdef NO_CLAIM_TOKEN
        :: true ->
#else
        :: state[o] == running && claim[o] == me ->
#endif
            assert(!final(o));
            checked(performing, watched[o] = false;
                then(performing, state[o] = succeeded; claim[o] = 0; beating[o] = false;
                    performed[o] = false; then(performing, counted[o] = false)))
        :: !(state[o] == running && claim[o] == me) -> skip /* late: nothing changes */
        fi;
        goto idle
        }
    od
}

/* The key of a dead leader expires; that of a frozen one does so at most FREEZES times. */
proctype Expiry() {
end:
    do
    :: atomic { lease != NOBODY && leading[lease] != term -> lease = NOBODY }
    :: atomic {
        lease != NOBODY && leading[lease] == term && freezes < FREEZES ->
            freezes++; lease = NOBODY
        }
    od
}

/* The heartbeat of a dead worker runs out; that of a frozen one does so at most SILENCES times. */
proctype Silence() {
end:
    do
    :: atomic { beating[0] && !performed[0] -> beating[0] = false }
    :: atomic {
        beating[OCCURRENCES - 1] && !performed[OCCURRENCES - 1] ->
            beating[OCCURRENCES - 1] = false
        }
    :: atomic {
        silences < SILENCES && beating[0] && performed[0] -> silences++; beating[0] = false
        }
    :: atomic {
        silences < SILENCES && beating[OCCURRENCES - 1] && performed[OCCURRENCES - 1] ->
            silences++; beating[OCCURRENCES - 1] = false
        }
    od
}

/* A failover forgets a message. */
proctype Queue() {
end:
    do
    :: atomic { vanished < VANISHED && messages[0] > 0 -> vanished++; messages[0]-- }
    :: atomic {
        vanished < VANISHED && messages[OCCURRENCES - 1] > 0 ->
            vanished++; messages[OCCURRENCES - 1]--
        }
    od
}

init {
    byte i = 0;
    atomic {
        do
        :: i < BEATS -> run Beat(i); i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < WORKERS -> run Worker(i + 1); i++
        :: else -> break
        od;
        run Expiry();
        run Silence();
        run Queue()
    }
}

/* Once the faults are over, every occurrence is dispatched and every run comes to its end. */
ltl ends { <> (next_due == OCCURRENCES && final(0) && final(OCCURRENCES - 1)) }

/* Nobody waits for a run in vain, and the job's next occurrence will not either: it has had all its
 * occurrences, and none of them holds it back. */
#define free(o) (!counted[o] && state[o] != queued && state[o] != running)
ltl runs_again { <> (next_due == OCCURRENCES && free(0) && free(OCCURRENCES - 1)) }
