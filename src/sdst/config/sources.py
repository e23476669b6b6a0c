"""Hydra's files, each parsed once: parsing them for every composition takes a quarter of a multirun's planning."""

from __future__ import annotations

import copy
import os
from functools import lru_cache

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads a configuration file again only after it changed. Hydra refuses a second reader of another name."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a copy that the caller may change, as Hydra does."""
        path = os.path.join(self.path, self._normalize_file_name(config_path))
        try:
            state = os.stat(path)
        except OSError:
            return super().load_config(config_path)  # which says what is missing
        changes = (state.st_ino, state.st_mtime_ns, state.st_size)
        return copy.deepcopy(_parsed(self.provider, self.path, config_path, changes))


@lru_cache(maxsize=1024)
def _parsed(provider: str, folder: str, config_path: str, _changes: tuple[int, int, int]) -> ConfigResult:
    return file_config_source.FileConfigSource(provider, folder).load_config(config_path)


def parse_files_once() -> None:
    """Let Hydra read files through :class:`FileConfigSource`."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
