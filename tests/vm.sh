# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# For scripts that make a virtual machine of the distribution's packages: its full kernel, some of the
# kernel's modules, and programs for an initramfs.  Sourced, after these were set:
#   cache     a folder in the user's cache, for what is downloaded and unpacked
#   work      a folder in the build tree: the root file system is made in $work/root
#   packages  what is unpacked beside the kernel
#   modules   of the kernel, in the order of loading
#   needed    the one of them without which it makes no sense
# Packages are downloaded with apt-get and unpacked, not installed.
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

# ---- what the machine is made of ----

host_tools()
{
	local missing=()
	command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
	command -v xz >/dev/null || missing+=(xz-utils)
	[ ${#missing[@]} = 0 ] && return 0
	local sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	echo "Installing with apt-get: ${missing[*]}"
	$sudo apt-get -qq update &&
		$sudo apt-get -qqy install --no-install-recommends "${missing[@]}" >/dev/null
}

# The cloud flavour's kernel lacks modules.
kernel_package()
{
	apt-cache depends linux-image-amd64 2>/dev/null |
		sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*-amd64\)$/\1/p' | head -n 1
}

download()
{
	# shellcheck disable=SC2046,SC2086 # lists are meant to split
	(cd "$cache/deb" && apt-get -qq download $(kernel_package) $packages \
		2> >(grep -v unsandboxed >&2))
}

unpack_kernel()
{
	local deb patterns=(--wildcards './boot/vmlinuz-*') module file
	deb=$(find "$cache/deb" -name 'linux-image-*.deb' | tail -n 1)
	mkdir -p "$cache/kernel/modules"
	for module in $modules; do patterns+=("*/$module.ko"); done
	# tar complains of those that are built in.
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$cache/kernel" "${patterns[@]}" 2>/dev/null
	for module in $modules; do
		file=$(find "$cache/kernel/lib" -name "$module.ko" -print -quit)
		[ -n "$file" ] && mv "$file" "$cache/kernel/modules/" && echo "$module"
	done >"$cache/kernel/modules/order"
	grep -q "^$needed\$" "$cache/kernel/modules/order"
}

# The ELF image inside the compressed one boots seconds sooner under emulation.
unpack_image()
{
	local z at length
	z=$(find "$cache/kernel/boot" -name 'vmlinuz-*' | head -n 1)
	number() { od -An -tu"$2" -j"$1" -N"$2" "$z" | tr -d ' '; }
	at=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
	length=$(number 588 4)
	tail -c +$((at + 1)) "$z" | head -c "$length" | xz -dc --single-stream \
		>"$cache/kernel/vmlinux" 2>/dev/null
	[ "$(head -c 4 "$cache/kernel/vmlinux" | tail -c 3)" = ELF ] || cp "$z" "$cache/kernel/vmlinux"
}

# $cache/complete says of what it is made: with another list it is made again.
fetch()
{
	local deb wanted
	# shellcheck disable=SC2086 # the lists are meant to split
	wanted=$(echo $packages $modules)
	[ "$(cat "$cache/complete" 2>/dev/null)" != "$wanted" ] || return 0
	command -v apt-get >/dev/null || return 1
	rm -rf "$cache"
	mkdir -p "$cache/deb" "$cache/stage"
	[ -n "$(kernel_package)" ] || apt-get -qq update
	download || { apt-get -qq update; download; } || return 1
	unpack_kernel && unpack_image || return 1
	for deb in "$cache"/deb/*.deb; do
		case $deb in *linux-image*) ;; *) dpkg -x "$deb" "$cache/stage" || return 1 ;; esac
	done
	echo "$wanted" >"$cache/complete"
}

# ---- its root file system ----

libs=lib/x86_64-linux-gnu
stage_libraries=$cache/stage/$libs:$cache/stage/usr/$libs

# Copies a program or library to the same place there, and what it is linked with.
add()
{
	local from=$1 to=$work/root/$2 library place
	mkdir -p "$(dirname "$to")"
	cp -L "$from" "$to"
	for library in $(LD_LIBRARY_PATH=$stage_libraries ldd "$from" 2>/dev/null | grep -oE '/[^ ]+'); do
		place=$work/root/${library#"$cache/stage"}
		[ -e "$place" ] || { mkdir -p "$(dirname "$place")" && cp -L "$library" "$place"; }
	done
}

add_staged() # NAME FOLDER: a program of the packages
{
	add "$(find "$cache/stage" -path "*bin/$1" -print -quit)" "$2/$1"
}

# The kernel's modules and a shell.
start_root()
{
	rm -rf "$work"
	mkdir -p "$work"/root/{bin,sbin,proc,sys,dev,run,tmp,etc}
	cp -r "$cache/kernel/modules" "$work/root/"
	cp "$cache/stage/bin/busybox" "$work/root/bin/busybox"
	ln -s busybox "$work/root/bin/sh"
}

pack_root()
{
	(cd "$work/root" && find . | "$cache/stage/bin/busybox" cpio -o -H newc 2>/dev/null) \
		>"$work/initrd.cpio"
}
