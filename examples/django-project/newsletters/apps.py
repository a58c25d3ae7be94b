"""The app of the newsletters."""

from django.apps import AppConfig


class NewslettersConfig(AppConfig):
    name = "newsletters"

    def ready(self):
        from newsletters import signals  # noqa: F401 - connects the receivers
