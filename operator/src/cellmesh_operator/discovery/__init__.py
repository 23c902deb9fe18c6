"""The discovery service: who is where in a mesh.

Modules, lowest first:

``settings``      every setting, read once from the environment.
``records``       a peer as it is told: JSON and content hash. Pure.
``registration``  a registration's body, checked. Pure.
``versions``      when a mesh, or one cell of it, changed last. Pure.
``members``       the peers of one mesh or cell; ``registry`` all of them, and expiry. Pure, the clock is handed in.
``objects``       what is needed of Cells and pods; ``projection`` turns them into peers. Pure.
``mirror``        the API server's objects as lists and watches tell them. Pure; ``reflector`` keeps it true.
``leases``        registrations as Leases. Pure; ``sharing`` keeps registrations and Leases in step.
``cluster``       all that has to do with the API server.
``waiters``       queries that wait for a change.
``queries``       query parameters and headers of a request. Pure.
``service``       the rules: registry, waiters and clocks together.
``answers``       the bodies of answers; ``metrics`` those for Prometheus.
``web``           reading bodies, writing errors, the guard in front; ``openapi`` the document.
``app``           routes.
``server``        the listening process; ``__main__`` its command line.
"""
