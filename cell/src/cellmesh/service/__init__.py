"""The rules of a cell.

``receiving``  messages in: check, store, acknowledge      ``sending``   messages out: find, deliver, retry
``routing``    which instance, and what an answer means    ``cell``      the parts of one cell put together
``reply``      what an endpoint answers                    ``counters``  what is counted
"""
