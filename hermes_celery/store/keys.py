"""Every Redis key: one prefix, one namespace, one hash tag.

All keys of a namespace carry the hash tag `{namespace}`, so that in a cluster they live in one slot
and one script may touch them together. The default Celery queue is named exactly like the
namespace: a key without braces is hashed whole, so the queue falls into the same slot as
`{namespace}:...` and `advance.lua` may push to it.

Redis Cluster, on paper: because of that tag a whole namespace, its default queue included, lives on
one node; several namespaces spread over several nodes, the shards of one do not. kombu 5.7 has no
transport for a cluster (it reads several queues with one BRPOP, and keeps its `unacked` and
`_kombu.binding.*` under names of other slots), so workers could not consume there, and nothing here
claims to serve on one.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The names of everything that is stored in one namespace."""

    namespace: str = "hermes"
    prefix: str = field(init=False)
    #: String: into how many shards the due index is split; absent: one.
    shards: str = field(init=False)
    #: Sorted set: beat by when it is taken for dead, Unix ms; only where there are several shards.
    beats: str = field(init=False)
    #: String: who leads, with an expiry. This and the next three are those of shard 0.
    lease: str = field(init=False)
    #: Counter: one more at each change of leader; its value is the fencing token.
    term: str = field(init=False)
    #: Sorted set: job id by next_run_at, Unix ms.
    due: str = field(init=False)
    #: Hash: what the leader says of itself, for `status`.
    leader: str = field(init=False)
    #: Sorted set: job id by creation, Unix ms; what `list` pages through.
    jobs: str = field(init=False)
    #: Sorted set, all scores 0: "<case-folded name>\0<job id>", searched by prefix.
    names: str = field(init=False)
    #: Sorted set: run id by the time it was recorded, Unix ms.
    runs: str = field(init=False)
    #: Sorted set, all scores 0: run ids; they begin with the job id and then sort by time.
    job_runs: str = field(init=False)
    #: Sorted set: queued run id by when its message is pushed again, Unix ms.
    queued: str = field(init=False)
    #: Sorted set: running run id by when its claim dies, Unix ms.
    heartbeats: str = field(init=False)
    #: Sorted set: completed job id by when, Unix ms; after a while they are removed.
    completed: str = field(init=False)
    #: Set: job ids whose history grew since it was last trimmed.
    grown: str = field(init=False)
    #: String: a random mark that the first job leaves; a server without memory has another.
    mark: str = field(init=False)
    #: Hash: whether everything is paused, since when and why, and when it was resumed.
    switch: str = field(init=False)
    #: Sorted set: run or notice id by when somebody looks at its delivery again, Unix ms.
    deliveries: str = field(init=False)
    #: Sorted set: open incident by when it happened last, Unix ms.
    incidents: str = field(init=False)
    #: Sorted set: worker name by when it was last seen, Unix ms.
    workers: str = field(init=False)
    #: Hash: worker name to what it says of itself, JSON; workers of 0.1.0 say nothing here.
    consumers: str = field(init=False)
    #: Sorted set: queue by when a worker last took a message from it, Unix ms.
    taken: str = field(init=False)
    #: Set: the Celery queues that runs were pushed to.
    queues: str = field(init=False)
    #: Hash: queue to its consumers without our hooks, JSON.
    foreign: str = field(init=False)
    #: Hash: what the leader's last look at all records found, for `doctor`, and notes of jobs that
    #: are to be told as incidents.
    sweep: str = field(init=False)
    #: String: a random mark, another one each time an index was moved away and must be filled.
    refill: str = field(init=False)
    #: List: messages that nobody can read, the newest first; a thousand at most.
    letters: str = field(init=False)
    #: Counter: how many such messages there ever were.
    letters_total: str = field(init=False)
    #: String, JSON: the stored format and the oldest program that can read it; absent: 0.1.0's.
    format: str = field(init=False)
    #: Sorted set: "<format> <beat or worker> <name>" by when it was last seen, Unix ms.
    programs: str = field(init=False)
    #: Hash: the namespaces of projects that know this one, "moved" where their jobs were here.
    projects: str = field(init=False)
    #: Hash: the name of each declared job that was refused, and why, as JSON.
    refused: str = field(init=False)
    #: Pub/sub channel: a job became due earlier than the beat may know.
    wake: str = field(init=False)

    def __post_init__(self) -> None:
        prefix = f"{{{self.namespace}}}:"
        object.__setattr__(self, "prefix", prefix)
        for name in _SINGLE:
            object.__setattr__(self, name, prefix + name.replace("_", "-"))

    def lease_of(self, shard: int) -> str:
        """String: who leads a shard."""
        return _of_shard(self.lease, shard)

    def term_of(self, shard: int) -> str:
        """Counter: a shard's fencing token."""
        return _of_shard(self.term, shard)

    def due_of(self, shard: int) -> str:
        """Sorted set: the jobs of a shard by next_run_at."""
        return _of_shard(self.due, shard)

    def leader_of(self, shard: int) -> str:
        """Hash: what a shard's leader says of itself."""
        return _of_shard(self.leader, shard)

    @property
    def default_queue(self) -> str:
        """The Celery queue of jobs that name none."""
        return self.namespace

    @property
    def delivery_queue(self) -> str:
        """The Celery queue of deliveries."""
        return f"{self.prefix}deliver"

    def job(self, job_id: str) -> str:
        """Hash: one job."""
        return f"{self.prefix}job:{job_id}"

    def run(self, run_id: str) -> str:
        """Hash: one run."""
        return f"{self.prefix}run:{run_id}"

    def active(self, job_id: str) -> str:
        """Hash: the job's runs that are `queued`, `running` or `retrying`."""
        return f"{self.prefix}active:{job_id}"

    def held(self, job_id: str) -> str:
        """List: runs that wait for an active one to end, each "<run id>\\0<message>"."""
        return f"{self.prefix}held:{job_id}"

    def output(self, run_id: str) -> str:
        """String: what one run printed."""
        return f"{self.prefix}output:{run_id}"

    def stderr(self, run_id: str) -> str:
        """String: what one run printed to its standard error."""
        return f"{self.prefix}stderr:{run_id}"

    def managed(self, manager: str) -> str:
        """Set: the ids of the jobs that a configuration manages."""
        return f"{self.prefix}managed:{manager}"

    def declares(self, beat: str) -> str:
        """String: what a living beat declares, as JSON; it expires with the beat."""
        return f"{self.prefix}declares:{beat}"

    def group(self, name: str) -> str:
        """Sorted set: running run id of a concurrency group by when its claim dies, Unix ms."""
        return f"{self.prefix}group:{name}"

    def delivery(self, delivery_id: str) -> str:
        """Hash: where the output of a run, or a notice, is on its way to people."""
        return f"{self.prefix}delivery:{delivery_id}"

    def incident(self, incident_id: str) -> str:
        """Hash: one trouble, however often it happened."""
        return f"{self.prefix}incident:{incident_id}"

    def troubles(self, job_id: str) -> str:
        """Set: the open incidents of a job, or with "" those of none."""
        return f"{self.prefix}troubles:{job_id}"

    def breaker(self, digest: str) -> str:
        """Hash: a far end that did not answer lately, and how long others let it alone."""
        return f"{self.prefix}breaker:{digest}"

    def idempotency(self, key: str) -> str:
        """String: the run id that a trigger with this key made."""
        return f"{self.prefix}trigger:{key}"

    def quarantine(self, key: str, *, at_ms: int) -> str:
        """Any type: a key that was moved out of the way because its value could not be used."""
        return f"{self.prefix}quarantine:{at_ms}:{key.removeprefix(self.prefix)}"


def _of_shard(key: str, shard: int) -> str:
    return f"{key}:{shard}" if shard else key


_SINGLE = (
    "shards",
    "beats",
    "lease",
    "term",
    "due",
    "jobs",
    "names",
    "runs",
    "job_runs",
    "queued",
    "heartbeats",
    "completed",
    "grown",
    "mark",
    "switch",
    "deliveries",
    "incidents",
    "workers",
    "consumers",
    "taken",
    "queues",
    "foreign",
    "letters",
    "letters_total",
    "leader",
    "sweep",
    "refill",
    "format",
    "programs",
    "projects",
    "refused",
    "wake",
)
