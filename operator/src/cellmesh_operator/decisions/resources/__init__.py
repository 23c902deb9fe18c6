"""The children of a Cell, each built by one pure function: a Cell and settings in, an object to apply out.

``metadata``  what all of them bear     ``service_account``  ``service``  ``pod_disruption_budget``
``stateful_set``  with its volume claims     ``pod_template``  what an instance runs as
"""

from cellmesh_operator.decisions.resources.pod_disruption_budget import build_pod_disruption_budget
from cellmesh_operator.decisions.resources.service import build_service
from cellmesh_operator.decisions.resources.service_account import build_service_account
from cellmesh_operator.decisions.resources.stateful_set import build_stateful_set

__all__ = ["build_pod_disruption_budget", "build_service", "build_service_account", "build_stateful_set"]
