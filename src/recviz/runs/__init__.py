"""A run on disk: its folder, and all readers and writers of its files."""
