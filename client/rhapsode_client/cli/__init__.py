"""The `rhapsode` command line."""
