"""The control plane of CellMesh. It is never in the path of a message.

Rooms:

``discovery``  the service that tells who is where.
``errors``     errors that end a command with one line for the user.

Of the cells' package only ``cellmesh.protocol`` is used; import-linter holds that.
"""
