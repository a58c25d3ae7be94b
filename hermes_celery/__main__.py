"""`python -m hermes_celery` is the `hermes-celery` command."""

from hermes_celery.cli import main

if __name__ == "__main__":
    main(prog_name="hermes-celery")
