"""Benchmarks of CellMesh against a floor and a yardstick, all in one run: ``python -m benchmarks``.

``run``       options, rounds, exit code          ``cases``     what is measured, and how
``systems``   the programs that are compared      ``processes`` their processes: start, CPU, memory, stop
``load``      the load generator, a process       ``connections``  its keep-alive connections and pacing
``floor``     the floor: no storage, no batching  ``prototype`` the yardstick: durable, without the contract
``lookups``   discovery's ``GET /peers``          ``wire``      a small blocking client for everything else
``machine``   the machine, versions and its disk  ``bars``      the targets    ``report``  docs/benchmarks.md
"""
