"""A creator platform: accounts, the groups they talk in, their messages, posts and media."""
