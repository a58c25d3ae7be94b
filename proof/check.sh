#!/bin/sh
# Check the model exhaustively, then check that each planted bug makes the checker find a fault.
#
#     proof/check.sh            everything (7 minutes, 2.5 GB of memory)
#     proof/check.sh --quick    without the largest searches (two minutes)
#
# Needs spin and a C compiler: apt-get install spin gcc. Installs nothing, leaves nothing behind.
set -eu

for tool in spin gcc; do
    command -v "$tool" > /dev/null || {
        echo "$tool is not installed; on Debian and Ubuntu: apt-get install spin gcc" >&2
        exit 1
    }
done
model=$(cd "$(dirname "$0")" && pwd)/hermes_celery.pml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failed=0

# search NAME safety|ends|runs_again FLAGS...: build and run one search; write its output to ./out
search() {
    name=$1
    property=$2
    shift 2
    spin -a "$@" "$model" > spin.log || { cat spin.log >&2; exit 1; }
    if [ "$property" = safety ]; then
        gcc -O2 -w -DSAFETY -DNOCLAIM -DCOLLAPSE -DVECTORSZ=512 -o pan pan.c
        ./pan -n -m2000000 -w24 > out 2>&1 || true
    else
        # -f: weak fairness; -a: find cycles in which the property never becomes true; -A: ignore
        # assertions, which the safety searches check
        gcc -O2 -w -DCOLLAPSE -DVECTORSZ=512 -DNFAIR=3 -o pan pan.c
        ./pan -A -a -f -n -m2000000 -w24 -N "$property" > out 2>&1 || true
    fi
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' out)
    depth=$(sed -n 's/.*depth reached \([0-9]*\),.*/\1/p' out)
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
    if grep -q "max search depth too small\|out of memory" out; then errors=incomplete; fi
}

holds() {
    search "$@"
    printf '%-58s %12s states, depth %4s, errors %s\n' "$name" "$states" "$depth" "$errors"
    [ "$errors" = 0 ] || { failed=1; cat out; }
}

breaks() {
    search "$@"
    found=$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' out)
    printf '%-58s %s\n' "$name" "${found:-NOTHING FOUND}"
    [ -n "$found" ] || failed=1
}

one="-DOCCURRENCES=1"
crashes="-DFREEZES=0 -DSILENCES=0 -DVANISHED=0"
failing="-DERRORS=1"
one_phase="$failing -DONE_PHASE"
mends="-DRECONCILE"

echo "the model: 2 beats, 2 workers; each kind of fault once, at any step"
if [ "${1:-}" != --quick ]; then
    holds "safety, 2 occurrences, on_lost: fail" safety
fi
holds "safety, 2 occurrences, crashes only" safety $crashes
holds "safety, 1 occurrence, on_lost: fail" safety $one
holds "safety, 1 occurrence, on_lost: retry" safety $one -DRETRY
holds "every run ends, 1 occurrence, on_lost: fail" ends $one
holds "every run ends, 1 occurrence, on_lost: retry" ends $one -DRETRY
if [ "${1:-}" != --quick ]; then
    holds "every run ends, 2 occurrences, crashes only" ends $crashes
fi

echo "also with one script that fails on the server, at any step"
holds "two phases: safety" safety $one $failing
holds "two phases: every run ends" ends $one $failing
holds "two phases: the job runs again" runs_again $one $failing
holds "one phase, reconciled: the job runs again" runs_again $one $one_phase $mends
if [ "${1:-}" != --quick ]; then
    holds "two phases: the job runs again, on_lost: retry" runs_again $one $failing -DRETRY
    holds "one phase, reconciled: the same, on_lost: retry" runs_again $one $one_phase $mends -DRETRY
fi

echo "with a planted bug, each search must find a fault"
breaks "no fence in advance, redeliver and lose" safety $one -DNO_FENCE
breaks "no claim" safety $one -DNO_CLAIM
breaks "finish without comparing the claim" safety $one -DNO_CLAIM_TOKEN
breaks "schedule moved first, record and message written later" safety $one -DSPLIT
breaks "the same: the occurrence never runs" ends $one -DSPLIT
breaks "no redelivery" ends $one -DNO_REDELIVERY
breaks "a run without heartbeats is never marked as lost" ends $one -DNO_LOSING
breaks "one phase: an occurrence has no record" safety $one $one_phase
breaks "one phase: the job never runs again" runs_again $one $one_phase
breaks "the same, queued runs are not reconciled" runs_again $one $one_phase $mends -DNO_MEND_QUEUED
breaks "the same, running runs are not reconciled" runs_again $one $one_phase $mends -DNO_MEND_RUNNING
breaks "the same, active runs are not reconciled" runs_again $one $one_phase $mends -DNO_MEND_ACTIVE
exit "$failed"
