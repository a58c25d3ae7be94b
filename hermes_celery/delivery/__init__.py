"""How output reaches people.

    targets      text -> targets, Hermes' rules; no I/O
    addresses    a target -> an apprise URL, from the environment that Hermes users have
    rendering    a run's output -> the text of a message
    splitting    a long text -> pieces that a platform takes
    media        `MEDIA:` lines -> files that may be sent
    channels     the ways out: apprise, `hermes send`, a local file

Nothing here knows Redis or Celery; what is sent when is `delivering`'s business.
"""
