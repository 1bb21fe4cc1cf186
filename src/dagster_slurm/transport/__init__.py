"""Moving bytes: run a command, put a file, read from an offset, on a cluster or on this machine."""

from dagster_slurm.transport.base import CompletedCommand, Transport, TreeEntry
from dagster_slurm.transport.openssh import OpenSSHTransport, SSHConnection
from dagster_slurm.transport.progress import ProgressCallback, UploadProgress
from dagster_slurm.transport.shell_transport import LocalTransport, storage_fault

__all__ = [
    "CompletedCommand",
    "LocalTransport",
    "OpenSSHTransport",
    "ProgressCallback",
    "SSHConnection",
    "Transport",
    "TreeEntry",
    "UploadProgress",
    "storage_fault",
]
