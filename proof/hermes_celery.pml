/* A model of lease, advance, claim, heartbeat, finish and rescue under faults.
 *
 * Each Lua script is one atomic step here, as on the server. Between any two steps of a process any of
 * these faults may happen: the process is killed; its lease or heartbeat expires while it is frozen
 * (that is, not scheduled for a while); a message vanishes or arrives twice. With ERRORS a script may
 * also fail on the server, which keeps the writes it has made until then. The model leaves out the
 * arithmetic of schedules, the policies of overlap and catch-up, and edits.
 *
 * ./check.sh checks the model. It also checks that spin finds a fault in each of these mutants:
 *     NO_FENCE         the scripts of a tick do not compare the term
 *     NO_CLAIM         a worker runs any message it gets, without a claim
 *     SPLIT            one step moves the schedule, another writes record and message
 *     NO_CLAIM_TOKEN   a worker may finish a run that is no longer its own
 *     NO_REDELIVERY    a vanished message is never pushed again
 *     NO_LOSING        a run whose worker died is never marked as lost
 *     ONE_PHASE        scripts check each key just before they write it, and may fail between writes
 *     NO_MEND_QUEUED, NO_MEND_RUNNING, NO_MEND_ACTIVE   RECONCILE skips one kind of repair
 * RETRY is `on_lost: retry`; without it a lost run stays lost. RECONCILE is the part of rescue that
 * repairs inconsistent records; with it a job runs again even after a script of one phase failed.
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
/* How often each fault may happen in total. */
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
byte lease = NOBODY;             /* the leader; expires */
byte term = 0;                   /* the fencing token: only rises */
byte next_due = 0;               /* the schedule: occurrences before it have been dispatched */
mtype state[OCCURRENCES] = none; /* the record of each occurrence's run */
byte claim[OCCURRENCES] = 0;     /* worker that may finish the run; 0: none */
byte attempt[OCCURRENCES] = 0;   /* number of attempts after the first */
bool counted[OCCURRENCES];        /* in the job's active runs, which hold back its next occurrence */
bool indexed[OCCURRENCES];       /* in the index of queued runs, where redeliver finds it */
bool watched[OCCURRENCES];       /* in the index of heartbeats, where lose finds it */
bool beating[OCCURRENCES];       /* its heartbeat has not expired */
byte messages[OCCURRENCES] = 0;  /* copies on the Celery queue */

/* The processes, outside the store. */
byte leading[BEATS] = 0;         /* the term in which a beat leads, as it believes; 0: standby or dead */
bool performed[OCCURRENCES];     /* the worker with the claim is alive and performs the run */
byte starts[OCCURRENCES] = 0;    /* starts of the current attempt */
byte beat_crashes = 0, worker_crashes = 0, freezes = 0, silences = 0, vanished = 0, errors = 0;

#define final(o) (state[o] == succeeded || state[o] == lost)

#ifdef NO_FENCE
#define fenced(b) false
#else
#define fenced(b) (leading[b] != term)
#endif

/* If a script fails, its caller continues at `back`. With two phases it can fail only before the first
 * write; with one phase, before each further write.
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

/* kill -9 of a beat, as an alternative to its next step */
#define killed(b) beat_crashes < BEAT_CRASHES -> beat_crashes++; leading[b] = 0; goto standby
#define stopped(b) fenced(b) -> leading[b] = 0; goto standby

/* advance.lua: check the fence, compare with the plan, move the schedule, write the record, push. */
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
    /* A kill here loses the occurrence, as it does in celery beat and RedBeat. */
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

/* redeliver.lua: check the fence and that the run is queued, then push its message again. It does not
 * look at the queue, so it also duplicates messages that did not vanish. */
#ifdef NO_REDELIVERY
#define overdue(o) false
#else
#define overdue(o) (state[o] == queued && indexed[o] && messages[o] < COPIES)
#endif
#define redeliver(o) overdue(o) -> assert(leading[b] == term); messages[o]++

/* lose.lua: check the fence and that the heartbeat has expired, then mark as lost or queue again. */
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

/* Reconciliation: each index that disagrees with the run's record is corrected, in a script of its own.
 * An occurrence without a record cannot be found. */
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
    /* lease_take.lua: if no beat leads, raise the term and lead in it */
    atomic { seen = 0; lease == NOBODY -> lease = b; term++; leading[b] = term }
tick:
    /* After the tick that moved the schedule past an occurrence, the occurrence has a record. */
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
        /* rescue: one run at a time, each in a script of its own */
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

/* kill -9 of a worker, as an alternative to its next step */
#define worker_killed worker_crashes < WORKER_CRASHES -> \
    worker_crashes++; performed[o] = performed[o] && claim[o] != me; goto idle

proctype Worker(byte me) {
    byte o = 0;
idle:
end:
    /* Celery's BRPOP with early acknowledgement: the message is removed from here on */
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
        :: state[o] != queued -> goto idle                  /* already taken */
        fi
    }
    /* The job starts. A start counts for the attempt that was claimed. If the claim was lost
     * before, it is not counted for the next attempt. */
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
        :: !(state[o] == running && claim[o] == me) -> skip /* too late: change nothing */
        fi;
        goto idle
        }
    od
}

/* The lease of a dead leader expires; the lease of a frozen one does so at most FREEZES times. */
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

/* The heartbeat of a dead worker expires; that of a frozen one does so at most SILENCES times. */
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

/* A failover loses a message. */
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

/* After the faults, every occurrence is dispatched and every run ends. */
ltl ends { <> (next_due == OCCURRENCES && final(0) && final(OCCURRENCES - 1)) }

/* After the faults, all occurrences of the job are dispatched and none of their runs is active any more.
 * So nothing holds back the job's next occurrence. */
#define free(o) (!counted[o] && state[o] != queued && state[o] != running)
ltl runs_again { <> (next_due == OCCURRENCES && free(0) && free(OCCURRENCES - 1)) }
