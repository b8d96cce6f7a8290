# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# For scripts that fetch packages of the distribution and unpack them in the user's cache, beside what
# is installed: sourced, after `what` and `cache` were set.  apt-get works on lists and archives of its
# own there: the machine's are left as they are.
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

fail()
{
	echo "$what: $*" >&2
	exit 1
}

# Where this machine has its packages from.
mirror()
{
	# shellcheck disable=SC2016 # these are apt-get's variables
	apt-get indextargets --format '$(RELEASE) $(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
		sed -n "s/^$release Debian //p" | head -n 1
}

apt()
{
	apt-get -qq -o Dir::Etc::SourceList="$cache/sources.list" -o Dir::Etc::SourceParts=- \
		-o Dir::State::Lists="$cache/lists" -o Dir::Cache="$cache/archives" \
		-o APT::Sandbox::User= -o Debug::NoLocking=true "$@"
}

# Reads the lists of these suites.  Callers ask whether it succeeded: set -e does not hold in it.
use_suites()
{
	local site suite
	command -v apt-get >/dev/null || fail "there is no apt-get"
	[ -n "$release" ] || fail "this distribution has no code name"
	site=$(mirror)
	[ -n "$site" ] || fail "the machine's own package sources are not known: run apt-get update"
	mkdir -p "$cache/lists/partial" "$cache/archives/archives/partial" || return
	for suite; do
		echo "deb $site $suite main"
	done >"$cache/sources.list" || return
	apt update
}

# Everything that was fetched, into $cache/root, which is there only once it is whole.
unpack()
{
	local deb
	for deb in "$cache"/archives/archives/*.deb; do
		dpkg -x "$deb" "$cache/root.new"
	done
	mv "$cache/root.new" "$cache/root"
}

# What was needed only until then.
forget_archives()
{
	rm -rf "$cache/archives" "$cache/lists"
}
