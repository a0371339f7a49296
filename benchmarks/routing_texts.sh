#!/bin/sh
# SPDX-License-Identifier: MIT
# sh benchmarks/routing_texts.sh DIR: three domains of text from Debian's packages, each in DIR, about 3 MB:
#   english.txt  the King James Bible, a verse a line (bible-kjv-text)
#   german.txt   proverbs, recipes, jokes (fortunes-de)
#   python.txt   Python's standard library
# Packages are unpacked, not installed. A text that is there already is kept.
set -eu
[ $# -eq 1 ] || { echo "usage: sh benchmarks/routing_texts.sh DIR" >&2; exit 2; }
mkdir -p "$1"
cd "$1"

# unpack PACKAGE...: into ./packages
unpack() {
  mkdir -p packages
  for package; do
    [ -e "packages/$package.done" ] && continue
    (cd packages && apt-get -qq -o APT::Sandbox::User=root download "$package" && dpkg -x "$package"_*.deb . && touch "$package.done")
  done
}

# cut_to FILE: the beginning of ./whole, complete or not at all
cut_to() {
  head -c 3000000 whole >part
  mv part "$1"
  rm whole
}

if [ ! -s english.txt ]; then
  unpack bible-kjv bible-kjv-text
  packages/usr/bin/bible -p packages/usr/lib -f gen1:1-rev22:21 | sed 's/^[^ ]* //' >whole
  cut_to english.txt
fi
if [ ! -s german.txt ]; then
  unpack fortunes-de
  find packages/usr/share/games/fortunes/de -type f | LC_ALL=C sort | xargs cat >whole
  cut_to german.txt
fi
if [ ! -s python.txt ]; then
  library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  find "$library" -maxdepth 1 -name '*.py' | LC_ALL=C sort | xargs cat >whole
  cut_to python.txt
fi
wc -c english.txt german.txt python.txt
