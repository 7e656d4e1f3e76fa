"""From TOML to a job that trains, and from a finished run back to its networks."""
