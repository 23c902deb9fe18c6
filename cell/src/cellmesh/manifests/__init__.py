"""Cell manifests: the same YAML that ``kubectl apply`` takes, read and checked on this machine.

``documents``  YAML from anywhere to plain data, with hostile YAML refused
``schema``     checks against the one schema of a Cell, and its defaults
``rules``      the CEL rules of that schema in Python
``quantities`` numbers with units, such as 512Mi
``locally``    what of a Cell a machine without a cluster can do
``cells``      what is left of a manifest once it is right, and the environment of its instances
"""

from cellmesh.manifests.cells import CellManifest, instance_environ, load

__all__ = ["CellManifest", "instance_environ", "load"]
