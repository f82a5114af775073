"""Every setting of every stage. Nothing heavy is imported here."""
