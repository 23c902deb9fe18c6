"""HTTP: how the rules of ``service`` are reached.

``server``     one process: sockets, signals, drain     ``app``      the FastAPI app: every endpoint
``hot_path``   POST /message, /message/batch, /send     ``openapi``  schemas of the documentation
``exchange``   reading a request, writing a reply        ``metrics``  what /metrics shows
"""
