"""A chat with users, conversations and messages: what the benchmarks mirror."""
