"""The API server behind one module: JSON in and out, typed errors, a deadline for every request.

``client``     get, list, watch, server-side apply and the rest     ``access``   configuration: pod or kubeconfig
``transport``  requests, their credentials and their errors
"""
