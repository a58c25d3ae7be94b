"""Run the `hermes-celery` command with `python -m hermes_celery`."""

from hermes_celery.cli import main

if __name__ == "__main__":
    main(prog_name="hermes-celery")
