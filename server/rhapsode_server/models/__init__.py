"""Models, their versions, and which worker serves what."""
