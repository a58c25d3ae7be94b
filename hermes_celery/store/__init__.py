"""Jobs, the due index and runs in Redis: the only caller of the scripts in `store/lua`.

    connect    a client for an address: one server, or the master that Sentinels name
    Database   the keys and scripts of a namespace; turns Redis' exceptions into ours
    Jobs       job definitions: add, change, remove, find, list
    DueIndex   what a tick needs: read the due jobs, advance them
    Shards     the number of shards of the due index, and the living beats
    Runs       the life of a run: trigger, claim, heartbeat, finish, cancel; and reading runs
    Deliveries output and notices on their way to people
    Incidents  recorded troubles, with a counter each
    ForeignQueues  queues that workers without our hooks consume
    QueueLoad  the signs of workers, and the lengths of the queues
    Letters    undecodable messages
    Records    all records, page by page
    Repairs    checks jobs and runs against their indexes, and repairs them
    SharedKeys checks and repairs the keys that all jobs share
    Mover      moves jobs to another namespace
    Formats    the stored format and the programs that can read it; Migrator changes it

No raw Redis field leaves this package.
"""

from hermes_celery.store.breakers import Breakers
from hermes_celery.store.connecting import connect
from hermes_celery.store.database import CANNOT_SAVE, Database
from hermes_celery.store.declarations import Declarations
from hermes_celery.store.deliveries import (
    Deliveries,
    DeliveryPart,
    DeliveryPartState,
    DeliveryRecord,
    PartContent,
    ToldIncident,
)
from hermes_celery.store.due_index import (
    Advance,
    Advanced,
    BrokenJob,
    DueIndex,
    PauseSwitch,
    StepAnswer,
)
from hermes_celery.store.end_run import EarlyEnd
from hermes_celery.store.fencing import Actor
from hermes_celery.store.foreign_queues import ForeignQueue, ForeignQueues
from hermes_celery.store.format import FORMAT, Formats, StoredFormat
from hermes_celery.store.history import History, Retention
from hermes_celery.store.incidents import Incidents
from hermes_celery.store.jobs import WRITES, Jobs, Write, Written
from hermes_celery.store.letters import Letters
from hermes_celery.store.limits import RunLimits
from hermes_celery.store.migrating import Migrator
from hermes_celery.store.moving import Moved, Mover, Neighbours, namespaces_beside
from hermes_celery.store.permissions import refuse_missing
from hermes_celery.store.pushing import Fate, Push
from hermes_celery.store.queue_load import QueueLoad, WorkerSign
from hermes_celery.store.record_pages import Page, Records
from hermes_celery.store.repairs import CheckMode, RecordsToCheck, Repairs
from hermes_celery.store.run_queries import LastPerformed, RunHolder, check_run_id
from hermes_celery.store.runs import Claim, Destination, FollowUp, HandedOn, RequestedRun, Runs
from hermes_celery.store.shards import Shards
from hermes_celery.store.shared_keys import SharedKeys
from hermes_celery.store.sweep_notes import SweepNote, SweepNotes
from hermes_celery.store.trouble_signs import TroubleSigns
from hermes_celery.store.waiting_runs import UndeliveredRun
from hermes_celery.store.wake_up import Waker
from hermes_celery.store.worker_app import (
    OUR_APP,
    beat_command,
    command_options,
    worker_app,
    worker_command,
)

__all__ = [
    "CANNOT_SAVE",
    "FORMAT",
    "OUR_APP",
    "WRITES",
    "Actor",
    "Advance",
    "Advanced",
    "Breakers",
    "BrokenJob",
    "CheckMode",
    "Claim",
    "Database",
    "Declarations",
    "Deliveries",
    "DeliveryPart",
    "DeliveryPartState",
    "DeliveryRecord",
    "Destination",
    "DueIndex",
    "EarlyEnd",
    "Fate",
    "FollowUp",
    "ForeignQueue",
    "ForeignQueues",
    "Formats",
    "HandedOn",
    "History",
    "Incidents",
    "Jobs",
    "LastPerformed",
    "Letters",
    "Migrator",
    "Moved",
    "Mover",
    "Neighbours",
    "Page",
    "PartContent",
    "PauseSwitch",
    "Push",
    "QueueLoad",
    "Records",
    "RecordsToCheck",
    "Repairs",
    "RequestedRun",
    "Retention",
    "RunHolder",
    "RunLimits",
    "Runs",
    "Shards",
    "SharedKeys",
    "StepAnswer",
    "StoredFormat",
    "SweepNote",
    "SweepNotes",
    "ToldIncident",
    "TroubleSigns",
    "UndeliveredRun",
    "Waker",
    "WorkerSign",
    "Write",
    "Written",
    "beat_command",
    "check_run_id",
    "command_options",
    "connect",
    "namespaces_beside",
    "refuse_missing",
    "worker_app",
    "worker_command",
]
