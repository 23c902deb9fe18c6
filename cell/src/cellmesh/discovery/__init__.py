"""The client of the discovery service.

``directory``     who is where: asks, caches, follows changes     ``registration``  registers this cell and beats
"""
