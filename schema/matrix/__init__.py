"""A Matrix homeserver, as one of its users (`source.toml`) or as its admin (`admin.toml`)."""
