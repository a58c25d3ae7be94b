"""The names of all Redis keys: one prefix, one namespace, one hash tag.

All keys of a namespace carry the hash tag `{namespace}`, so in a cluster they share a slot and one
script may use them together. The default Celery queue has the namespace's name: a key without
braces is hashed whole, so the queue has the same slot as `{namespace}:...`, and `advance.lua` may
push to it.

Redis Cluster, in theory: a whole namespace with its default queue lives on one node. Several
namespaces spread over several nodes; the shards of one namespace do not. In practice hermes-celery
does not support a cluster: kombu 5.7 has no transport for it (it reads several queues with one
BRPOP, and keeps `unacked` and `_kombu.binding.*` in other slots), so workers could not consume.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The names of all keys of one namespace.

    The comment or docstring of each name begins with the key's Redis type.
    """

    namespace: str = "hermes"
    prefix: str = field(init=False)
    #: String: the number of shards of the due index; absent: one.
    shards: str = field(init=False)
    #: Sorted set: beat by the time when it counts as dead, Unix ms; used with several shards only.
    beats: str = field(init=False)
    #: String: the leader, with an expiry. This and the next three keys belong to shard 0.
    lease: str = field(init=False)
    #: Counter: rises at each change of leader; its value is the fencing token.
    term: str = field(init=False)
    #: Sorted set: job id by next_run_at, Unix ms.
    due: str = field(init=False)
    #: Hash: the leader's report about itself, for `status`.
    leader: str = field(init=False)
    #: Sorted set: job id by creation time, Unix ms; `list` pages through it.
    jobs: str = field(init=False)
    #: Sorted set, all scores 0: "<case-folded name>\0<job id>", searched by prefix.
    names: str = field(init=False)
    #: Sorted set: run id by the time it was recorded, Unix ms.
    runs: str = field(init=False)
    #: Sorted set, all scores 0: run ids; they begin with the job id and then sort by time.
    job_runs: str = field(init=False)
    #: Sorted set: queued run id by the time when its message is pushed again, Unix ms.
    queued: str = field(init=False)
    #: Sorted set: running run id by the time when its claim expires, Unix ms.
    heartbeats: str = field(init=False)
    #: Sorted set: completed job id by time of completion, Unix ms; such jobs are removed later.
    completed: str = field(init=False)
    #: Set: job ids whose history has grown since it was last trimmed.
    grown: str = field(init=False)
    #: String: a random mark, written with the first job; a server that lost its data lacks it.
    mark: str = field(init=False)
    #: Hash: whether all jobs are paused, since when and why, and when they were resumed.
    switch: str = field(init=False)
    #: Sorted set: run or notice id by the time of its delivery's next check, Unix ms.
    deliveries: str = field(init=False)
    #: Sorted set: open incident by the time it last happened, Unix ms.
    incidents: str = field(init=False)
    #: Sorted set: worker name by the time of its last sign, Unix ms.
    workers: str = field(init=False)
    #: Hash: worker name to its report about itself, JSON; workers of 0.1.0 write none.
    consumers: str = field(init=False)
    #: Sorted set: queue by the time when a worker last took a message from it, Unix ms.
    taken: str = field(init=False)
    #: Set: the Celery queues that runs were pushed to.
    queues: str = field(init=False)
    #: Hash: queue to its consumers without our hooks, JSON.
    foreign: str = field(init=False)
    #: Hash: the findings of the leader's last check of all records, for `doctor`, and notes of jobs
    #: that are still to become incidents.
    sweep: str = field(init=False)
    #: String: a random mark that changes when an index was quarantined and must be filled again.
    refill: str = field(init=False)
    #: List: undecodable messages, the newest first; at most a thousand.
    letters: str = field(init=False)
    #: Counter: all undecodable messages ever.
    letters_total: str = field(init=False)
    #: String, JSON: the stored format and the oldest format that can read it; absent: 0.1.0's.
    format: str = field(init=False)
    #: Sorted set: "<format> <beat or worker> <name>" by the time of its last sign, Unix ms.
    programs: str = field(init=False)
    #: Hash: the namespaces of projects that know this one; "moved" if their jobs once were here.
    projects: str = field(init=False)
    #: Hash: the name of each refused declared job to the reason, JSON.
    refused: str = field(init=False)
    #: Pub/sub channel: a job became due earlier than the beat may know.
    wake: str = field(init=False)

    def __post_init__(self) -> None:
        prefix = f"{{{self.namespace}}}:"
        object.__setattr__(self, "prefix", prefix)
        for name in _SINGLE:
            object.__setattr__(self, name, prefix + name.replace("_", "-"))

    def lease_of(self, shard: int) -> str:
        """String: the leader of a shard."""
        return _of_shard(self.lease, shard)

    def term_of(self, shard: int) -> str:
        """Counter: a shard's fencing token."""
        return _of_shard(self.term, shard)

    def due_of(self, shard: int) -> str:
        """Sorted set: the jobs of a shard by next_run_at."""
        return _of_shard(self.due, shard)

    def leader_of(self, shard: int) -> str:
        """Hash: the report of a shard's leader about itself."""
        return _of_shard(self.leader, shard)

    @property
    def default_queue(self) -> str:
        """The Celery queue of jobs without a queue of their own."""
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
        """String: the standard output of one run."""
        return f"{self.prefix}output:{run_id}"

    def stderr(self, run_id: str) -> str:
        """String: the standard error of one run."""
        return f"{self.prefix}stderr:{run_id}"

    def managed(self, manager: str) -> str:
        """Set: the ids of the jobs that a configuration manages."""
        return f"{self.prefix}managed:{manager}"

    def declares(self, beat: str) -> str:
        """String: the declaration of a living beat, JSON; it expires with the beat."""
        return f"{self.prefix}declares:{beat}"

    def group(self, name: str) -> str:
        """Sorted set: running run id of a concurrency group by the end of its claim, Unix ms."""
        return f"{self.prefix}group:{name}"

    def delivery(self, delivery_id: str) -> str:
        """Hash: the delivery of a run's output or of a notice."""
        return f"{self.prefix}delivery:{delivery_id}"

    def incident(self, incident_id: str) -> str:
        """Hash: one incident, with a count of how often it happened."""
        return f"{self.prefix}incident:{incident_id}"

    def troubles(self, job_id: str) -> str:
        """Set: the open incidents of a job; with "" the incidents without a job."""
        return f"{self.prefix}troubles:{job_id}"

    def breaker(self, digest: str) -> str:
        """Hash: a delivery server that did not answer, and how long it is paused."""
        return f"{self.prefix}breaker:{digest}"

    def idempotency(self, key: str) -> str:
        """String: the id of the run that was triggered with this idempotency key."""
        return f"{self.prefix}trigger:{key}"

    def quarantine(self, key: str, *, at_ms: int) -> str:
        """Any type: the key under which an unusable value is kept after it was moved away."""
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
