"""The control plane of CellMesh. It is never in the path of a message.

``reconciler``  watches Cells and their children, and does what was decided: a program
``discovery``   tells who is where, by ``/peers``: a program
``decisions``   what to do for a Cell and what to say of it: pure
``kube``        the API server behind one module
``naming``      every name that others can see     ``errors``  the errors of all     ``loops``  the event loop
``environment`` settings from variables            ``listening``  what to say of an address that is taken

Of the cells' package only ``cellmesh.protocol`` is used; import-linter holds that, and the order of the rooms.
"""
