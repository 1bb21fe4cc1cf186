"""A stand-in for a cloud's compute log manager: a directory for its bucket, over the base that Dagster's own have."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import dagster as dg
from dagster._core.storage.cloud_storage_compute_log_manager import TruncatingCloudStorageComputeLogManager
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClass, ConfigurableClassData


class CloudLogs(TruncatingCloudStorageComputeLogManager, ConfigurableClass):  # type: ignore[misc]
    """Keeps logs in a directory, and notes in `uploads` what it was sent."""

    def __init__(self, bucket: str, *, is_away: bool = False, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._bucket = Path(bucket)
        self._is_away = is_away
        self._inst_data = inst_data
        self._local = LocalComputeLogManager(f"{bucket}.local")
        self.uploads: list[str] = []

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        return {"bucket": str, "is_away": dg.Field(bool, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> CloudLogs:
        return cls(**config_value, inst_data=inst_data)

    @property
    def local_manager(self) -> LocalComputeLogManager:
        return self._local

    @property
    def upload_interval(self) -> int | None:
        return None

    def _place(self, log_key: Sequence[str], io_type: ComputeIOType) -> Path:
        return self._bucket.joinpath(*log_key).with_suffix(f".{IO_TYPE_EXTENSION[io_type]}")

    def _upload_file_obj(
        self, data: IO[bytes], log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        if self._is_away:
            raise OSError("the bucket is away")
        place = self._place(log_key, io_type)
        self.uploads.append(place.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data.read())

    def download_from_cloud_storage(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        path = Path(self._local.get_captured_local_path(log_key, IO_TYPE_EXTENSION[io_type], partial=partial))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._place(log_key, io_type), path)

    def cloud_storage_has_logs(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> bool:
        return not partial and self._place(log_key, io_type).exists()

    def delete_logs(self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None) -> None:
        self._local.delete_logs(log_key=log_key, prefix=prefix)

    def download_url_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str | None:
        return None

    def display_path_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return str(self._place(log_key, io_type))

    def get_log_keys_for_log_key_prefix(
        self, log_key_prefix: Sequence[str], io_type: ComputeIOType
    ) -> Sequence[Sequence[str]]:
        return []
