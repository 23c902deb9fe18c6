"""Types and reasons of a Cell's conditions and Events: fixed words that people and programs look for."""

from __future__ import annotations

from typing import Final

# Types of conditions, in the order in which they are shown.
READY: Final = "Ready"
AVAILABLE: Final = "Available"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"
STORAGE_READY: Final = "StorageReady"
UP_TO_DATE: Final = "UpToDate"
MESSAGES_LEFT: Final = "MessagesLeft"
CONDITIONS: Final = (READY, AVAILABLE, RECONCILING, STALLED, STORAGE_READY, UP_TO_DATE, MESSAGES_LEFT)
#: Present only while they are true, as kstatus reads the first two.
ONLY_WHILE_TRUE: Final = frozenset({RECONCILING, STALLED, MESSAGES_LEFT})

# All is well.
INSTANCES_READY: Final = "InstancesReady"
INSTANCE_READY: Final = "InstanceReady"
SCALED_TO_ZERO: Final = "ScaledToZero"
BOUND: Final = "Bound"
EPHEMERAL: Final = "Ephemeral"
APPLIED: Final = "Applied"

# Under way; nothing to do but wait.
STARTING: Final = "Starting"
ROLLING_OUT: Final = "RollingOut"
SCALING_DOWN: Final = "ScalingDown"
NO_INSTANCE_READY: Final = "NoInstanceReady"
WAITING_FOR_DELETION: Final = "WaitingForDeletion"
WAITING_FOR_ROLLOUT: Final = "WaitingForRollout"
CLAIM_PENDING: Final = "ClaimPending"
RESIZING: Final = "Resizing"

# Instances cannot run.
INVALID_IMAGE_NAME: Final = "InvalidImageName"
IMAGE_PULL: Final = "ImagePullBackOff"
CONTAINER_CONFIG: Final = "CreateContainerConfigError"
CONTAINER_CREATION: Final = "CreateContainerError"
OOM_KILLED: Final = "OOMKilled"
CRASHING: Final = "CrashLoopBackOff"
UNSCHEDULABLE: Final = "Unschedulable"
POD_FAILED: Final = "PodFailed"
PROBE_FAILING: Final = "ProbeFailing"

# Pods cannot even be made.
POD_SECURITY: Final = "PodSecurityViolation"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
FAILED_CREATE: Final = "FailedCreate"

# Storage.
NO_STORAGE_CLASS: Final = "NoStorageClass"
STORAGE_CLASS_MISSING: Final = "StorageClassNotFound"
CLAIM_LOST: Final = "ClaimLost"
EXPANSION_UNSUPPORTED: Final = "ExpansionNotSupported"
EXPANSION_REFUSED: Final = "ExpansionRefused"
RESIZE_FAILED: Final = "ResizeFailed"

# Messages that instances have left behind.
SCALED_DOWN_WITH_MESSAGES: Final = "ScaledDownWithMessages"
MESSAGES_LOST: Final = "MessagesLost"

# The children.
NAME_CONFLICT: Final = "NameConflict"
APPLY_FAILED: Final = "ApplyFailed"
APPLY_REFUSED: Final = "ApplyRefused"

# Events only.
FIELDS_CHANGED: Final = "FieldsChangedByOthers"
RECOVERED: Final = "Recovered"

#: Why instances are not there, the root causes first: of several, the first is shown.
TROUBLES: Final = (
    INVALID_IMAGE_NAME,
    IMAGE_PULL,
    CONTAINER_CONFIG,
    CONTAINER_CREATION,
    OOM_KILLED,
    CRASHING,
    POD_SECURITY,
    QUOTA_EXCEEDED,
    FAILED_CREATE,
    NO_STORAGE_CLASS,
    STORAGE_CLASS_MISSING,
    CLAIM_LOST,
    UNSCHEDULABLE,
    POD_FAILED,
    PROBE_FAILING,
)
#: Troubles that only FailedCreate Events tell of.
FROM_EVENTS: Final = frozenset({POD_SECURITY, QUOTA_EXCEEDED, FAILED_CREATE})
#: Troubles that waiting does not mend: somebody must change something. The others may pass by themselves:
#: a registry comes back, a node is added, a Secret follows.
HOPELESS: Final = frozenset({INVALID_IMAGE_NAME, POD_SECURITY})

#: Characters of a message at most: enough for a scheduler's, and no log.
MESSAGE_LENGTH: Final = 512


def cut(text: str) -> str:
    """Return a text on one line, within ``MESSAGE_LENGTH``."""
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_LENGTH else f"{line[: MESSAGE_LENGTH - 3]}..."
