"""`rhapsode batch`: a file of prompts becomes a file of completions."""
