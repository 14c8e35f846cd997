"""The version of this package, as it was installed."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """From the package's metadata; `unknown` where it runs from a directory without being installed."""
    try:
        return version("lightllm")
    except PackageNotFoundError:
        return "unknown"
