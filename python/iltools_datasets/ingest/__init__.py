"""From an archive to a store: what becomes which column, decided before a value is read."""
