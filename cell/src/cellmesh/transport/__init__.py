"""Connections to other instances.

``http1``  one HTTP/1.1 connection, and a pool of them     ``link``  the queue of messages to one instance
"""
