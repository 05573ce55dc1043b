"""What `rhapsode-train` does with versions that exist: functions with typed results, and how each looks on a screen."""
