"""What a user may write: a class per section, from which error lines, JSON schema and the tables of config/README.md come."""
