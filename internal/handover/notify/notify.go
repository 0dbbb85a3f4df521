// Package notify is what a process says to whoever keeps its sockets, in the
// words of systemd's notification protocol (sd_notify(3)): lines KEY=VALUE, with
// the sockets beside them.
package notify

import "strings"

// What is said. Store and Remove go with a Name. Take and Quit are for a holder of
// our own, and End is its answer: systemd hands out what it has when it starts a
// process.
const (
	Store   = "FDSTORE=1"
	Remove  = "FDSTOREREMOVE=1"
	Barrier = "BARRIER=1" // the pipe beside it is closed when all before it is done
	Take    = "TAKE=1"
	Quit    = "QUIT=1"
	End     = "END=1"

	name = "FDNAME="
)

// Name says which sockets are meant.
func Name(n string) string { return name + n }

// Message is lines as they are sent.
func Message(lines ...string) []byte { return []byte(strings.Join(lines, "\n")) }

// Parse reads a message. Lines that it does not know are of a later version and
// mean nothing to it.
func Parse(b []byte) (said map[string]bool, named string) {
	said = map[string]bool{}
	for l := range strings.SplitSeq(string(b), "\n") {
		if n, ok := strings.CutPrefix(l, name); ok {
			named = n
			continue
		}
		said[l] = true
	}
	return said, named
}
