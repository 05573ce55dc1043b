"""`rhapsode bench`: load on a deployment, and what it makes of it."""
