#!/bin/sh
# Takes from the system what a server does not need, keeping dpkg's own records true for scanners and the SBOM.
# Runs in a stage of the build, never on a machine. On a base that lacks a package there is nothing to take.
set -eu

# Package management and accounts: an image is replaced, not upgraded; perl-base only serves debconf and adduser.
unneeded="apt adduser debian-archive-keyring gpgv passwd login mount e2fsprogs logsave util-linux util-linux-extra bsdutils
    init-system-helpers sysvinit-utils libapt-pkg6.0 libgnutls30 libp11-kit0 libidn2-0 libunistring2 libtasn1-6 libnettle8
    libhogweed6 libseccomp2 libxxhash0 libext2fs2 libss2 libcom-err2 libnsl2 libtirpc3 libtirpc-common libgssapi-krb5-2
    libkrb5-3 libk5crypto3 libkrb5support0 libkeyutils1 libsemanage2 libsemanage-common
    libsepol2 libaudit1 libaudit-common libcap-ng0 libpam0g libpam-modules libpam-modules-bin libpam-runtime
    libfdisk1 libudev1 libsystemd0 libmount1 libblkid1 libsmartcols1 libdebconfclient0 openssl tzdata media-types
    mawk ncurses-bin diffutils usr-is-merged cdebconf debconf perl-base"

found=""
for name in $unneeded; do
    if dpkg-query --show --showformat '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed; then
        found="$found $name"
    fi
done
# Their scripts would update what is being taken away.
for name in $found; do
    rm -f /var/lib/dpkg/info/"$name".prerm /var/lib/dpkg/info/"$name".postrm \
        /var/lib/dpkg/info/"$name":*.prerm /var/lib/dpkg/info/"$name":*.postrm
done
# shellcheck disable=SC2086 # a list of packages
[ -z "$found" ] || dpkg --purge --force-all $found >/dev/null 2>&1

find /usr/share/doc -type f ! -name copyright -delete
rm -rf /usr/share/man/* /usr/share/info/* /usr/share/locale/* /usr/share/perl5 /usr/share/zoneinfo \
    /usr/share/bash-completion /usr/lib/x86_64-linux-gnu/gconv /usr/lib/x86_64-linux-gnu/perl* \
    /var/cache/* /var/log/* /var/lib/apt /var/lib/dpkg/info/*.md5sums /var/lib/dpkg/*-old /etc/apt /tmp/* ~root/.cache

# Python without what only developers run, and without NIS. Its compiled files are bound to its sources by content, not by time: a build that
# sets all times to one value would else make Python compile each module anew at each start.
stdlib=$(python3.11 -c 'import os; print(os.path.dirname(os.__file__))')
rm -rf "$stdlib"/test "$stdlib"/idlelib "$stdlib"/lib2to3 "$stdlib"/pydoc_data "$stdlib"/turtledemo "$stdlib"/tkinter \
    "$stdlib"/ensurepip "$stdlib"/config-3.11-* "$stdlib"/site-packages \
    "$stdlib"/lib-dynload/nis.*.so
find "$stdlib" -name __pycache__ -prune -exec rm -rf {} +
python3.11 -m compileall -q --invalidation-mode unchecked-hash "$stdlib" || true

# The account that the server runs as.
grep -q '^warmswap:' /etc/passwd || echo 'warmswap:x:65532:65532:warmswap:/nonexistent:/bin/false' >>/etc/passwd
grep -q '^warmswap:' /etc/group || echo 'warmswap:x:65532:' >>/etc/group
find / -xdev -type f -perm /6000 -exec chmod a-s {} +

# Nothing that was left may miss a library that was taken.
broken=$(find /usr/bin /usr/lib /usr/local -xdev -type f \( -name '*.so' -o -name '*.so.*' -o -perm /111 \) \
    -exec sh -c 'for f; do ldd "$f" 2>/dev/null | grep -q "not found" && echo "$f"; done; true' sh {} +)
if [ -n "$broken" ]; then
    echo "slim_system.sh took a library that is still needed by:" >&2
    echo "$broken" >&2
    exit 1
fi
