#!/usr/bin/env bash
# Split a file that is too large for one transfer, and join it again, checking its checksum.
#   pieces.sh split FILE [SIZE]   FILE.part0, FILE.part1 ... of SIZE (45M), FILE.sha256; removes FILE
#   pieces.sh join FOLDER         every file in FOLDER that has a checksum
set -euo pipefail
case ${1:-} in
  split)
    folder=$(dirname "$2") name=$(basename "$2")
    cd "$folder"
    sha256sum "$name" > "$name.sha256"
    split -b "${3:-45M}" -d -a 2 "$name" "$name.part"
    rm "$name"
    ;;
  join)
    cd "$2"
    shopt -s nullglob
    for sums in *.sha256; do
      name=${sums%.sha256}
      pieces=("$name".part*)
      cat "${pieces[@]:?no piece of $name in $2}" > "$name"
      sha256sum --status -c "$sums" || {
        rm "$name"
        echo "pieces.sh: the ${#pieces[@]} pieces of $name in $2 do not make up the file: carry all of them" >&2
        exit 1
      }
    done
    ;;
  *)
    echo "usage: pieces.sh split FILE [SIZE] | join FOLDER" >&2
    exit 2
    ;;
esac
