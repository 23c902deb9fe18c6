"""CellMesh cells: direct, durable messages between processes that find each other through discovery.

Rooms, lowest first (a room imports only those below it; import-linter holds that):

``protocol``   what travels on the wire: messages, receipts, peers, errors. Pure.
``settings``   every setting of a cell, read once from the environment.
``inbox``      the SQLite file in which acknowledged messages live.
``transport``  connections to other cells and the coalescing of messages on them.
``discovery``  the client of the discovery service: who is where, and registration.
``service``    the rules: receiving, sending, draining.
``api``        HTTP: the FastAPI app and the hot path in front of it.
``cli``        the ``cellmesh`` command.
"""

__version__ = "0.1.0"
