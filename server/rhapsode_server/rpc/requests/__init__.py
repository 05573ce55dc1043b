"""From request messages to what is to be done: each part validated and converted in a module of its own."""
