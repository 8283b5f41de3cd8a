#!/bin/sh
# Makes the virtual environment of this checkout: deploy/setup.sh VENV EXTRAS
#
# Installs what the system lacks when it may (root on Debian or Ubuntu); else it names the exact command and stops.
set -eu

venv=${1:?usage: deploy/setup.sh VENV EXTRAS}
extras=${2:?usage: deploy/setup.sh VENV EXTRAS}
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# The stub of the pip Triton exists for these versions of Python, and needs numpy < 2, which has no wheels for 3.13.
find_python() {
    for name in "${PYTHON:-python3}" python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

python=$(find_python)
[ -n "$python" ] || fail "no Python 3.11 or 3.12 found (python3 is $(python3 --version 2>&1)); install one, or set PYTHON"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

has_library() { ldconfig -p 2>/dev/null | grep -q "$1 "; }

missing=""
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python$version-venv"
libdir=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
case ",$extras," in *,server,*)
    has_library "libpython$version.so.1.0" || [ -e "$libdir/libpython$version.so.1.0" ] || missing="$missing libpython$version"
    has_library libGL.so.1 || missing="$missing libgl1"
    has_library libgthread-2.0.so.0 || missing="$missing libglib2.0-0"
    ;;
esac
case ",$extras," in *,dev,*)
    command -v promtool >/dev/null 2>&1 || missing="$missing prometheus"
    command -v faketime >/dev/null 2>&1 || missing="$missing faketime"
    command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
    ;;
esac
case ",$extras," in *,export,*)
    command -v npm >/dev/null 2>&1 || missing="$missing npm"
    ;;
esac

if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of package names
    set -- $missing
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing $*"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
            fail "could not install $*"
    else
        fail "these system packages are missing: $*
       install them: sudo apt-get install -y $*"
    fi
fi

if [ ! -x "$venv/bin/python" ] || [ "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "$version" ]; then
    say "creating $venv with Python $version"
    "$python" -m venv --clear "$venv"
fi
say "installing warmswap[$extras] into $venv (the first time takes some minutes)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extras]"
