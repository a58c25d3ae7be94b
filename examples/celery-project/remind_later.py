"""Adds a job while beat and worker run: remind one customer, once, in five seconds."""

import sys

from hermes_celery import JobRequest

from market import cron, remind

customer = sys.argv[1]
job = cron.client.add(
    JobRequest(name=f"remind {customer}", schedule="in 5s", task=remind.s(customer))
)
print(f"{job.name}: at {job.next_run_at:%H:%M:%S} UTC")
