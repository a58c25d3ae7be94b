"""An end to what other people's code, servers and records do: errors, hours, megabytes."""
