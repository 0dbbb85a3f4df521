#!/bin/sh
# Installs what is missing on a Debian machine, and prints (on its last line)
# the go command to build with. Run as root.
#   setup.sh build   what building and running the platform needs
#   setup.sh test    that, and what the tests need besides
#   setup.sh helm|k9s|prometheus|operator|upstream
#                    the first, and programs of others that tests point at the
#                    platform, built from their modules: without them those tests
#                    are skipped (docs/clients.md)
set -eu

GO_VERSION=1.26.8
HELM_VERSION=v3.22.0
K9S_VERSION=v0.50.16
PROMETHEUS_VERSION=v0.316.0 # 3.16.0, as a module
KUBERNETES_VERSION=v1.37.2
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/podsnap
what=${1:-build}

say() { printf '%s\n' "$*" >&2; }

# apt installs the packages whose command is missing: "command=package …".
apt() {
	missing=
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null 2>&1 || [ -e "/usr/sbin/${pair%%=*}" ] || missing="$missing ${pair#*=}"
	done
	[ -z "$missing" ] && return 0
	[ "$(id -u)" = 0 ] || { say "missing:$missing. Run this as root, or install them by hand."; exit 1; }
	command -v apt-get >/dev/null || { say "missing:$missing. This is no Debian system: install them by hand."; exit 1; }
	say "installing$missing"
	apt-get update -qq >&2
	# shellcheck disable=SC2086 # a list of packages
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

# go_command finds a go that is new enough, or fetches the toolchain module.
go_command() {
	for g in "$(command -v go || true)" /usr/local/go/bin/go "$CACHE/go$GO_VERSION/bin/go"; do
		[ -x "$g" ] || continue
		v=$("$g" env GOVERSION 2>/dev/null | sed 's/^go//')
		if [ "$(printf '%s\n%s\n' "$GO_VERSION" "$v" | sort -V | head -n1)" = "$GO_VERSION" ]; then
			echo "$g"
			return
		fi
	done
	case $(uname -m) in
	x86_64) arch=amd64 sum=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7 ;;
	aarch64) arch=arm64 sum=02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99 ;;
	*) say "no go $GO_VERSION for $(uname -m): install it by hand"; exit 1 ;;
	esac
	apt curl=curl unzip=unzip
	name=v0.0.1-go$GO_VERSION.linux-$arch
	say "fetching go $GO_VERSION"
	tmp=$(mktemp -d)
	curl -fsSL -o "$tmp/go.zip" "${GOPROXY_URL:-https://proxy.golang.org}/golang.org/toolchain/@v/$name.zip"
	echo "$sum  $tmp/go.zip" | sha256sum -c - >&2 || { say "the go toolchain's checksum is wrong: nothing was installed"; exit 1; }
	unzip -q "$tmp/go.zip" -d "$tmp"
	chmod -R u+rwX "$tmp"
	find "$tmp/golang.org/toolchain@$name/bin" "$tmp/golang.org/toolchain@$name/pkg/tool" -type f -exec chmod +x {} +
	mkdir -p "$CACHE"
	rm -rf "$CACHE/go$GO_VERSION"
	mv "$tmp/golang.org/toolchain@$name" "$CACHE/go$GO_VERSION"
	rm -rf "$tmp"
	echo "$CACHE/go$GO_VERSION/bin/go"
}

# unpack puts a Debian package's files into the cache without installing it, so
# that a test's tool does not become a service of this machine.
unpack() {
	[ -e "$CACHE/$1/$2" ] && return 0
	say "fetching $1"
	tmp=$(mktemp -d)
	chmod 755 "$tmp"
	(cd "$tmp" && { apt-get download -qq "$1" >&2 || { apt-get update -qq >&2 && apt-get download -qq "$1" >&2; }; }) ||
		{ say "cannot fetch $1: its test will be skipped"; rm -rf "$tmp"; return 0; }
	mkdir -p "$CACHE"
	rm -rf "$CACHE/$1"
	dpkg-deb -x "$tmp"/"$1"_*.deb "$CACHE/$1"
	rm -rf "$tmp"
}

# build_module builds a program from its module into the cache: build_module GO NAME
# VERSION PACKAGE FLAG…
build_module() {
	go=$1 name=$2 version=$3 package=$4
	shift 4
	[ -x "$CACHE/$name-$version/$name" ] && return 0
	say "building $name $version: some minutes, once"
	rm -rf "$CACHE/$name"-v*
	GOBIN="$CACHE/$name-$version" CGO_ENABLED=0 GOFLAGS= "$go" install -trimpath -ldflags '-s -w' "$@" "$package@$version" >&2 ||
		say "cannot build $name: its test will be skipped"
}

# build_here builds programs of a module in tools, whose sources or versions are
# ours: build_here GO MODULE FOLDER PACKAGE…
build_here() {
	go=$1 module=$2 folder=$3
	shift 3
	say "building what tools/$module names: some minutes, the first time"
	mkdir -p "$CACHE/$folder"
	CGO_ENABLED=0 GOFLAGS= "$go" -C "$(dirname "$0")/../tools/$module" build -trimpath -ldflags '-s -w' -o "$CACHE/$folder/" "$@" >&2 ||
		say "cannot build what tools/$module names: its test will be skipped"
}

apt containerd=containerd runc=runc busybox=busybox-static update-ca-certificates=ca-certificates
if [ "$what" = test ]; then
	apt gcc=gcc curl=curl nft=nftables
	[ -e /usr/include/stdio.h ] || { apt-get update -qq >&2; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libc6-dev >&2; }
	command -v prometheus >/dev/null 2>&1 || unpack prometheus usr/bin/prometheus
fi
case $what in
helm) build_module "$(go_command)" helm "$HELM_VERSION" helm.sh/helm/v3/cmd/helm ;;
k9s) build_module "$(go_command)" k9s "$K9S_VERSION" github.com/derailed/k9s ;;
prometheus) # Debian's has no discovery by the Kubernetes API; this has no other
	build_module "$(go_command)" prometheus "$PROMETHEUS_VERSION" github.com/prometheus/prometheus/cmd/prometheus -tags remove_all_sd,enable_kubernetes_sd ;;
operator) build_here "$(go_command)" operator operator . ;;
upstream)
	build_here "$(go_command)" upstream "kubernetes-$KUBERNETES_VERSION" k8s.io/kubernetes/cmd/kube-scheduler k8s.io/kubernetes/cmd/kube-controller-manager
	;;
esac
go_command
