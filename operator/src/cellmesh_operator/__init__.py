"""The control plane of CellMesh. It is never in the path of a message.

Two programs: the reconciler (this package, ``python -m cellmesh_operator``) and discovery.

What should be, without I/O:

``naming``, ``reasons``   every name and word that others can see.
``cells``, ``resources``  a Cell as a value, and the builders of its children.
``actions``               what is observed and what is decided: the values in between.
``decisions``             what to do for a Cell; with ``comparing``, ``conditions``, ``instances``, ``ownership``,
                          ``storage``, ``troubles``, ``failures``, ``hashing`` and ``quantities`` beneath.
``queue``, ``rollout``    whose turn it is.

How it gets done:

``client``                the API server, on ``transport`` and ``access``.
``handlers``              kopf, which only watches; ``streams`` tells what becomes of its watches.
``store``, ``relisting``  what is known of the cluster, and complete lists that keep it so.
``reconciler``            one look at a Cell, with ``observing`` and ``noticing``; ``working`` runs many.
``program``               all of it put together, with ``settings``, ``health``, ``metrics``, ``loops``.

``discovery``             the service that tells who is where.
``errors``                the errors of both.

Of the cells' package only ``cellmesh.protocol`` is used; import-linter holds that.
"""
