"""A store over a few blocking calls, for datastores of any other kind."""
