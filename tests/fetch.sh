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

# Reads the lists of these suites.
use_suites()
{
	local site suite
	command -v apt-get >/dev/null || fail "there is no apt-get"
	[ -n "$release" ] || fail "this distribution has no code name"
	site=$(mirror)
	[ -n "$site" ] || fail "the machine's own package sources are not known: run apt-get update"
	mkdir -p "$cache/lists/partial" "$cache/archives/archives/partial"
	for suite; do
		echo "deb $site $suite main"
	done >"$cache/sources.list"
	apt update
}

# Everything that was fetched, into $cache/root.
unpack()
{
	local deb
	for deb in "$cache"/archives/archives/*.deb; do
		dpkg -x "$deb" "$cache/root"
	done
}

# What was needed only until then.
forget_archives()
{
	rm -rf "$cache/archives" "$cache/lists"
}
