#!/bin/sh
# Runs the tests of this directory beside a Docker daemon, in namespaces of their own: no container, address, file or rule of
# the firewall is this machine's, and all of it is gone when they end, however they end. Needs root.
set -eu
cd "$(dirname "$0")/../.."

if [ "${1-}" != inside ]; then
  # The images are made from the release that this machine runs, whose libraries its Node is linked with.
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  base=.tools/docker/$release.tar
  if [ ! -f "$base" ]; then
    echo "Making the base of the images ($release) in .tools/docker"
    root=.tools/docker/root.$$
    trap 'rm -rf "$root" "$root.log" "$base.$$"' EXIT
    mkdir -p "$root"
    debootstrap --variant=minbase --include=ca-certificates,libstdc++6 "$release" "$root" >"$root.log" \
      || { tail -n 5 "$root.log" >&2; exit 1; }
    tar --exclude=./var/cache/apt/archives/*.deb --exclude=./var/lib/apt/lists/* -C "$root" -cf "$base.$$" .
    mv "$base.$$" "$base"
    rm -rf "$root" "$root.log"
    trap - EXIT
  fi
  mkdir -p .run
  export BASE="$base"
  exec unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc "$0" inside
fi

ip link set lo up
mount -t cgroup2 none /sys/fs/cgroup
# A daemon that this machine runs has its sockets there.
mount -t tmpfs none /run
# Whoever looks after .run knows processes by their ids, which in here are others. Docker's data is in memory too.
mount -t tmpfs none .run

export CGROUP=x402-docker-tests
# Groups belong to no namespace. Those of a run that was killed are removed too, except where another run is in them.
remove_groups() { find "/sys/fs/cgroup/$CGROUP" -depth -type d -delete 2>/dev/null || true; }
remove_groups
code=0
node --test --test-reporter="${REPORTER:-spec}" tests/docker/ || code=$?
remove_groups
exit "$code"
