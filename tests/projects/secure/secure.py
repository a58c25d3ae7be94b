"""A project whose broker uses TLS; its environment variables become Celery settings unchanged."""

import json
import os
import ssl

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("secure", broker=os.environ["BROKER"])
use_ssl = json.loads(os.environ.get("USE_SSL", "null"))
if isinstance(use_ssl, dict) and "ssl_cert_reqs" in use_ssl:
    use_ssl["ssl_cert_reqs"] = getattr(ssl, use_ssl["ssl_cert_reqs"])
app.conf.broker_use_ssl = use_ssl
app.conf.broker_transport_options = json.loads(os.environ.get("TRANSPORT_OPTIONS", "{}"))
app.conf.beat_schedule = {"tick": {"task": "secure.tick", "schedule": 1.0}}
cron = Cron(app)


@app.task
def tick():
    """Note which case ran."""
    note("tick", os.environ["CASE"])
