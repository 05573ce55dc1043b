"""The OpenAI-style endpoint over HTTP: a translation to the messages of the wire contract and back.

What answers is what answers gRPC: the same admission, limits, metrics and lines in the log. It is the only user of
aiohttp, and imported where --openai-address asks for it.
"""
