"""What travels on the wire, as pure code: no sockets, no files, no framework.

``messages``  the message, its two forms and its checks     ``receipts``  what a cell answers
``peers``     who is where                                  ``problems``  every error code
``fields``    bounds and defaults of single fields          ``decoding``  JSON in, errors that name the field
``guard``     media type, Host and Origin of a request      ``manifest.schema``  the Cell resource
"""
