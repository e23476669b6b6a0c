"""The version, here alone so that the build and every module can read it without importing the package's names."""

__version__ = "0.2.0"
