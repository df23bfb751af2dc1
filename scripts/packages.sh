#!/usr/bin/env bash
# Makes the packages for one architecture below bin/packages/ARCH: .deb, .rpm, and an archive that install.sh installs.
#
#   scripts/packages.sh VERSION [ARCH]     VERSION as of `git describe`; ARCH as Go names it, by default this machine's
set -euo pipefail
cd "$(dirname "$0")/.."

# https://github.com/goreleaser/nfpm; not in go.mod, where its many dependencies would be the program's.
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4

version=$1
host=$(go env GOHOSTARCH)
arch=${2:-$host}
out=bin/packages/$arch
work=bin/package-$arch
stage=$work/stage

# The date of the commit, so that the same tree gives the same packages.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
mtime=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

# A package's version begins with a digit; one without a tag is older than every release.
case $version in
v[0-9]*) package_version=${version#v} ;;
[0-9]*.*) package_version=$version ;;
*) package_version=0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$version ;;
esac
package_version=${package_version//-/+}

build() { # ARCH FILE
	CGO_ENABLED=0 GOOS=linux GOARCH=$1 go build -trimpath -ldflags "-s -w -X main.release=$version" -o "$2" ./cmd/flotilla
}

# The texts that the licences of the libraries ask for, for all that the program is linked with.
licences() {
	local module dir file
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/flotilla | LC_ALL=C sort -u |
		while read -r module dir; do
			for file in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE*; do
				if [ -f "$file" ]; then
					printf '==== %s: %s\n\n' "$module" "$(basename "$file")"
					cat "$file"
					printf '\n'
				fi
			done
		done
	printf '==== Go and its standard library\n\n'
	cat "$(go env GOROOT)/LICENSE"
}

rm -rf "$work" "$out"
mkdir -p "$stage" "$out"
build "$arch" "$work/flotilla"
run=$work/flotilla
if [ "$arch" != "$host" ]; then
	run=$work/flotilla-$host
	build "$host" "$run"
fi

licences >"$work/licences"
[ "$(grep -c '^==== ' "$work/licences")" -ge 10 ] || { echo "packages.sh: licences of libraries are missing" >&2; exit 1; }

# The packages.
scripts/install.sh --root "$stage" --prefix /usr --binary "$work/flotilla" --run "$run"
docs=$stage/usr/share/doc/flotilla
install -m 0644 scripts/package/copyright "$docs/copyright"
gzip -9n <"$work/licences" >"$docs/licences.gz"
chmod 0644 "$docs/licences.gz"
printf 'flotilla (%s) unstable; urgency=medium\n\n  * Version %s.\n\n -- The maintainers of Flotilla <maintainers@flotilla.invalid>  %s\n' \
	"$package_version" "$version" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$docs/changelog.Debian.gz"
chmod 0644 "$docs/changelog.Debian.gz"
sed "s|@STAGE@|$stage|; s|@VERSION@|$package_version|; s|@ARCH@|$arch|" scripts/package/nfpm.yaml >"$work/nfpm.yaml"
for format in deb rpm; do
	go run "$nfpm" package --config "$work/nfpm.yaml" --packager "$format" --target "$out/"
done

# The archive: install.sh and what it installs.
name=flotilla-$version-linux-$arch
tree=$work/$name
mkdir -p "$tree/doc/docs"
cp "$work/flotilla" scripts/install.sh "$tree/"
cp -r scripts/host "$tree/"
cp README.md ARCHITECTURE.md "$work/licences" "$tree/doc/"
cp docs/runbook.md "$tree/doc/docs/"
tar --sort=name --mtime="$mtime" --owner=0 --group=0 --numeric-owner -C "$work" -czf "$out/$name.tar.gz" "$name"
ls -l "$out"
