"""The proof that no acknowledged message is lost: a ledger outside the system, and faults while it is kept.

``ledger``    what senders, consumers and readers write down, line by line; nothing but Python, so it runs in a pod too
``evidence``  what is written there, by message and by position in an inbox: pure, as all of the books
``books``     the comparison of what was said with what was found
``leasing``   its rules about what consumers were handed
``ordering``  its rules about the order of queued messages
``report``    the outcome as text and as docs/reliability.md
"""
