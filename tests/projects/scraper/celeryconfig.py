"""Celery's settings in a module of their own: exchanges, queues, priorities, limits."""

import os
from datetime import timedelta

from celery.schedules import crontab
from kombu import Exchange, Queue

broker_url = os.environ["BROKER"]
result_backend = os.environ["BROKER"].replace("/0", "/1")
broker_connection_retry_on_startup = True
broker_transport_options = {
    "visibility_timeout": 43200,
    "priority_steps": list(range(10)),
    "sep": ":",
    "queue_order_strategy": "priority",
}
timezone = "Asia/Kolkata"
enable_utc = True
imports = ("scraper_tasks",)

_exchange = Exchange("scraper", type="direct")
task_queues = (
    Queue("default", _exchange, routing_key="scraper.default"),
    Queue("crawl", _exchange, routing_key="scraper.crawl", queue_arguments={"x-max-priority": 10}),
    Queue("index", Exchange("index"), routing_key="index"),
)
task_default_queue = "default"
task_default_exchange = "scraper"
task_default_exchange_type = "direct"
task_default_routing_key = "scraper.default"
task_create_missing_queues = False
task_default_priority = 5
task_queue_max_priority = 10
task_routes = {
    "scraper_tasks.crawl": {"queue": "crawl", "routing_key": "scraper.crawl"},
    "scraper_tasks.index_*": {"queue": "index"},
}
task_annotations = {
    "*": {"rate_limit": "100/s"},
    "scraper_tasks.crawl": {"time_limit": 60, "soft_time_limit": 50},
}
task_acks_late = True
task_acks_on_failure_or_timeout = True
task_reject_on_worker_lost = True
task_compression = "gzip"
result_expires = timedelta(hours=1)
result_extended = True
worker_prefetch_multiplier = 1
worker_max_tasks_per_child = 50
worker_send_task_events = True
task_send_sent_event = True

beat_schedule = {
    "crawl-news": {
        "task": "scraper_tasks.crawl",
        "schedule": timedelta(seconds=2),
        "args": ("https://news.example",),
        "options": {"priority": 1},
    },
    "index-pages": {"task": "scraper_tasks.index_pages", "schedule": timedelta(seconds=3)},
    "crawl-archive": {
        "task": "scraper_tasks.crawl",
        "schedule": crontab(minute=0, hour="*/6"),
        "args": ["https://archive.example"],
        "options": {"queue": "crawl", "routing_key": "scraper.crawl", "priority": 9},
    },
    "clean-up": {
        "task": "scraper_tasks.clean_up",
        "schedule": crontab(minute="15,45", hour="0-5", day_of_month="*/2"),
        "kwargs": {"keep": {"days": 30}},
        "options": {"expires": 900.0},
    },
    "celery.backend_cleanup": {
        "task": "celery.backend_cleanup",
        "schedule": crontab(minute=0, hour=4),
    },
}
