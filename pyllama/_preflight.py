"""Says in one line what this machine lacks to build and install ak42. Run by the Makefile as a file, by any Python, before anything
is installed; so it imports only what every Python has, and is written for old ones too."""

import os
import sys
import sysconfig


def missing():
    """One line, or None where nothing is missing."""
    if sys.version_info < (3, 10):
        found = ".".join(str(part) for part in sys.version_info[:2])
        return "Python %s is too old; install 3.10 or later and say which: make PYTHON=python3.12" % found
    name = "python%d.%d" % sys.version_info[:2]
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "Python's venv is missing; install it: apt-get install python3-venv (or %s-venv)" % name
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        return "Python's headers are missing (%s); install them: apt-get install python3-dev (or %s-dev)" % (header, name)
    return None


if __name__ == "__main__":
    line = missing()
    if line:
        sys.exit("ak42: " + line)
