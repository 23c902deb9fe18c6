"""Errors of the operator's programs that are not an answer to a request.

OperatorError
├── SettingsError   a setting has a value that cannot be used; names it
└── ListenError     the address to listen on cannot be had; says what to do
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of the errors that end a command with one line for the user."""


class SettingsError(OperatorError):
    """A setting has a value that cannot be used."""


class ListenError(OperatorError):
    """The address to listen on cannot be had."""
