"""The reconciler: looks at Cells level by level, does what was decided, reports it.

``program``    all put together, and its end          ``handlers``   kopf: events become keys of Cells
``queue``      whose turn it is: one worker a key     ``working``    the workers
``looking``    one look at one Cell: observe, decide, act, report
``store``      what is known of every object          ``observing``  what is known of one Cell
``relisting``  complete lists, compared               ``streams``    whether the watches live
``rollout``    slots for changes of the operator      ``noticing``   Events
``settings``   read once from the environment         ``health``, ``metrics``  what is told over HTTP
"""
