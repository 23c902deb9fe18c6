"""The discovery service: who is where in a mesh.

Modules, lowest first:

``settings``      every setting, read once from the environment.
``registration``  a registration's body, checked, and the JSON it is given back as. Pure.
``versions``      when a mesh, or one cell of it, changed last. Pure.
``registry``      who is there; expiry, content hashes. Pure, the clock is handed in.
``waiters``       queries that wait for a change.
``queries``       query parameters and headers of a request. Pure.
``service``       the rules: registry, waiters and clocks together.
``answers``       the bodies of answers; ``metrics`` those for Prometheus.
``http``          reading bodies, writing errors, the guard in front; ``openapi`` the document.
``app``           routes.
``server``        the listening process; ``__main__`` its command line.
"""
