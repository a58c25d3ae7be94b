"""What of secrets may be shown; every secret becomes `***`. Nothing else in the package hides one.

    output        what a run, a server or a tool printed: bytes, masked before they are stored
    urls          the URLs of deliveries and pings, whose tokens may stand anywhere
    server_urls   the URL of a Redis or of a broker: all of it is shown but its passwords

Each is imported by its own name, so that a command loads only what it needs.
"""
