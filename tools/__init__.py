"""Scripts that make files of this repository out of others; run them from its root as ``python -m tools.NAME``.

``core_schemas``    the parts of the Cell's schema that are Kubernetes' own
``cell_reference``  docs/cells.md out of the Cell's schema
``levels``          every test level that this machine can run
``manifests``       install.yaml, the chart's copy of that schema, the tables of the charts' values
"""
