#!/bin/sh
# Sums and averages of the numeric columns of a CSV file with a header line. Fields
# may be in double quotes and hold commas. ?sep=; in the query changes the
# separator.
set -eu

sep=$(printf '%s' "${Http_Query:-}" | sed -n 's/.*sep=\([^&]\).*/\1/p')

awk -v sep="${sep:-,}" '
function split_csv(line, out,   n, i, c, quoted, field) {
	n = 0; quoted = 0; field = ""
	for (i = 1; i <= length(line); i++) {
		c = substr(line, i, 1)
		if (c == "\"") {
			if (quoted && substr(line, i + 1, 1) == "\"") { field = field c; i++ }
			else quoted = !quoted
		} else if (c == sep && !quoted) { out[++n] = field; field = "" }
		else field = field c
	}
	out[++n] = field
	return n
}
{ sub(/\r$/, "") }
NR == 1 { columns = split_csv($0, name); next }
/^[ \t]*$/ { next }
{
	n = split_csv($0, value)
	if (n != columns) { printf "line %d has %d fields, the header has %d\n", NR, n, columns; bad = 1; exit 1 }
	rows++
	for (i = 1; i <= n; i++)
		if (value[i] ~ /^[ \t]*[-+]?[0-9]*\.?[0-9]+[ \t]*$/) { sum[i] += value[i]; count[i]++ }
}
END {
	if (bad) exit 1
	if (NR == 0) { print "send a CSV file with a header line"; exit 1 }
	printf "%-16s %14s %14s\n", "column", "sum", "average"
	for (i = 1; i <= columns; i++)
		if (count[i]) printf "%-16s %14.2f %14.2f\n", name[i], sum[i], sum[i] / count[i]
	printf "rows: %d\n", rows
}'
