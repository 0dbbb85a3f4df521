#!/bin/sh
# The words of a text, how often each occurs, and how much there is of everything.
# ?top=5 in the query shows more or fewer than the ten commonest words.
set -eu

top=$(printf '%s' "${Http_Query:-}" | sed -n 's/.*top=\([0-9][0-9]*\).*/\1/p')
text=$(mktemp)
trap 'rm -f "$text"' EXIT
cat > "$text"

printf 'lines %d, words %d, bytes %d\n' "$(wc -l < "$text")" "$(wc -w < "$text")" "$(wc -c < "$text")"
tr -cs "[:alpha:]'" '\n' < "$text" | tr '[:upper:]' '[:lower:]' | sed "s/^'*//; s/'*$//; /^$/d" |
	sort | uniq -c | sort -k1,1nr -k2,2 | head -n "${top:-10}" |
	awk '{ printf "%6d %s\n", $1, $2 }'
