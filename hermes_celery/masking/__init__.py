"""Replace secrets by `***`; no other code in the package does.

    output        what a run, a server or a tool printed: bytes, masked before they are stored
    urls          the URLs of deliveries and pings, in which any part may be a token
    server_urls   the URL of a Redis or broker: everything is shown except its passwords

Import each of them by its own name, so that a command loads only what it needs.
"""
