"""What runs inside the peers' environments: it imports the peer, never hermes_celery."""
